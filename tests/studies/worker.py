"""One process's part in a study of (x - 2)^2 + y^2."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna

from dguide.settings import Layout, load_config
from dguide.studies import study as studies
from dguide.studies.study import ENDED, StudyPlan, open_study, run_trials
from discriminator_guidance.core.errors import ConfigError, DivergenceError
from tests.commands import FORKS

CORNERS = {"D0": {"x": 1.0, "y": 1.0}, "D1": {"x": -1.0, "y": 2.0}, "D2": {"x": 0.0, "y": -3.0}}
IMPATIENT = {"heartbeat_interval": 1, "grace_period": 2}
PLAN = StudyPlan("ensemble", "a quadratic", CORNERS)


def take_part(
    root: Path, total: int, pause_s: float = 0.0, victim: int | None = None, recover_all: bool = False
) -> optuna.Study:
    """Run trials until there are so many; the first process that comes to trial `victim` is killed in it."""
    config = load_config(root / "params.yaml")

    def objective(trial: optuna.Trial, tracker: object) -> float:
        x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
        with (root / "calls.txt").open("a") as calls:
            calls.write(f"{trial.number} {os.getpid()}\n")
        time.sleep(pause_s)
        if trial.number == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        if x > 4.5:
            raise (DivergenceError if y < 1 else ConfigError)("the loss is nan", "lower x")
        trial.report(x, 1)
        if y > 4.5:
            raise optuna.TrialPruned
        return (x - 2) ** 2 + y**2

    study = open_study(config, Layout(root, config.profile), PLAN, recover_all)
    run_trials(study, objective, total, config)
    return study


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that need not be run any more."""
    return study.get_trials(states=ENDED)


def begin(variables: dict[str, str], root: Path, together: int, *how: Any) -> None:
    """Take part once `together` processes are there."""
    os.environ.update(variables)
    studies.DATABASE |= IMPATIENT
    (root / f"worker{os.getpid()}").touch()
    while len(list(root.glob("worker*"))) < together:
        time.sleep(0.01)
    take_part(root, *how)


def start(root: Path, total: int, pause_s: float = 0.0, victim: int | None = None, workers: int = 1) -> Any:
    """A worker process, one of `workers` that begin together."""
    process = FORKS.Process(target=begin, args=(dict(os.environ), root, workers, total, pause_s, victim))
    process.start()
    return process


def codes(processes: Iterable[Any]) -> list[int | None]:
    """The exit codes of processes, in order of size."""
    for process in processes:
        process.join(120)
    return sorted(process.exitcode for process in processes)
