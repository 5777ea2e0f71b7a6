"""Tasks on several processes: every one is done, an error ends the rest, a killed worker is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from discriminator_guidance.errors import ConfigError, InputError, UserError
from discriminator_guidance.studies.crew import run_tasks


def write(folder: Path, name: str) -> None:
    (folder / name).write_text(str(os.getpid()))


def refuse(folder: Path, name: str) -> None:
    if name == "a":
        raise ConfigError("this", "that", "do so")
    write(folder, name)


def die(folder: Path, name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_single_worker_is_this_process(tmp_path: Path):
    assert list(run_tasks(write, [(tmp_path, "a"), (tmp_path, "b")], 1)) == [0, 1]
    assert (tmp_path / "a").read_text() == str(os.getpid())


def test_several_workers_do_every_task_elsewhere(tmp_path: Path):
    tasks = [(tmp_path, name) for name in "abcd"]
    assert sorted(run_tasks(write, tasks, 2)) == [0, 1, 2, 3]
    assert str(os.getpid()) not in {(tmp_path / name).read_text() for name in "abcd"}


def test_an_error_of_a_task_keeps_its_words(tmp_path: Path):
    with pytest.raises(UserError, match="expected this; got that; do so"):
        list(run_tasks(refuse, [(tmp_path, "a")], 2))


def test_a_killed_worker_is_told(tmp_path: Path):
    with pytest.raises(InputError, match="run the same command again"):
        list(run_tasks(die, [(tmp_path, "a")], 2))
