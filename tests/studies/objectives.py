"""Objectives of the tests, importable by worker processes."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from pathlib import Path

import optuna

from discriminator_guidance.errors import DivergenceError, InputError
from discriminator_guidance.studies.workers import Objective


def quadratic(pause_s: float = 0.0, folder: Path | None = None) -> Objective:
    """(x - 2)^2 + y^2; in `folder` a line for each call, with the process that ran it."""

    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
        if folder is not None:
            (folder / f"{trial.number}-{os.getpid()}").write_text(f"{x!r} {y!r}")
        time.sleep(pause_s)
        return (x - 2) ** 2 + y**2

    return objective


def deadly(folder: Path, victim: int) -> Objective:
    """Like `quadratic`, but the worker that first runs trial `victim` is killed in the midst of it."""
    inner = quadratic(0.02, folder)

    def objective(trial: optuna.Trial) -> float:
        value = inner(trial)
        if trial.number == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(value)  # type: ignore[arg-type]

    return objective


def filling(journal: Path, victim: int) -> Objective:
    """Like `quadratic`, but the worker that first runs trial `victim` finds no room in the journal from then on."""
    inner = quadratic(0.02)

    def objective(trial: optuna.Trial) -> float:
        value = inner(trial)
        if trial.number == victim:
            resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 20,) * 2)
        return float(value)  # type: ignore[arg-type]

    return objective


def crowded() -> Objective:
    """A worker that cannot make a file of its own."""

    def objective(trial: optuna.Trial) -> float:
        raise OSError(errno.ENOSPC, "No space left on device", f"{trial.number}.lock")

    return objective


def refusing() -> Objective:
    """A worker that lacks a file."""
    raise InputError("a file", "none", "make it")


def diverging() -> Objective:
    """Every other trial diverges."""

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if trial.number % 2:
            raise DivergenceError("a finite loss", "nan", "lower the learning rate")
        return x

    return objective


def fatal() -> Objective:
    """The trial at the origin kills its worker whenever it is run."""
    inner = quadratic()

    def objective(trial: optuna.Trial) -> float:
        value = inner(trial)
        if trial.params["x"] == 0.0:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(value)  # type: ignore[arg-type]

    return objective
