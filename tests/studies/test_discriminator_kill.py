"""Study `discriminator` survives `kill -9`: of all its processes, and of one worker in the midst of a trial."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from discriminator_guidance.studies.discriminator import search_plan
from discriminator_guidance.studies.finalists import SEARCHED, finalists_plan
from discriminator_guidance.studies.liveness import WORKER, attempts, settled
from discriminator_guidance.studies.storage import open_study
from discriminator_guidance.studies.trial_heads import GRID
from tests.stages.conftest import Study

from .killing import await_trial, begin
from .test_discriminator import project, small_search

__all__ = ["project"]  # the fixture

TRIALS = 6
# The objective and its workers are those of the command; each trial that is told leaves a line.
COMMAND = """
import json, sys
from pathlib import Path
from tests.stages.conftest import Study
from discriminator_guidance.studies.discriminator import run
if __name__ == "__main__":
    root, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    def told(name, trial):
        with (root / "told.txt").open("a") as stream:
            stream.write(f"{name} {trial.number}\\n")
    run(Study(root, settings).config, Study(root, settings).context, 6, 2, told)
"""


@pytest.fixture
def own(project: Study, tmp_path: Path) -> Study:
    settings = small_search()
    settings["study"]["discriminator"]["pruner"] |= {"startup_trials": 100}
    settings["study"]["discriminator"]["epochs"] = [4, 12]
    shutil.copytree(project.root, tmp_path / "project", ignore=shutil.ignore_patterns("study"))
    return Study(tmp_path / "project", settings)


def late(least: int, reported: int) -> Callable[[optuna.trial.FrozenTrial], bool]:
    """Whether a trial has a number from one on, and so many epochs behind it."""
    return lambda trial: trial.number >= least and len(trial.intermediate_values) >= reported


def test_killed_workers_lose_no_trial_and_repeat_none(own: Study):
    command = begin(own, COMMAND)
    await_trial(command, search_plan(own.config, own.layout), late(1, 1))
    os.killpg(command.pid, signal.SIGKILL)  # the call and both workers
    command.communicate(timeout=60)
    plan = search_plan(own.config, own.layout)
    died = {t.number for t in open_study(plan).trials if t.state == TrialState.RUNNING}
    assert died

    command = begin(own, COMMAND)
    victim = await_trial(command, search_plan(own.config, own.layout), late(3, 2))
    os.kill(int(victim.user_attrs[WORKER].split("-")[-2]), signal.SIGKILL)
    _, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors.decode()

    study = open_study(plan)
    ended = settled(study, heartbeat=False)
    assert len(ended) == TRIALS
    assert {t.state for t in ended} == {TrialState.COMPLETE}
    assert len({tuple(t.params.values()) for t in ended}) == TRIALS, "no trial of the start was repeated"
    assert sorted(t.user_attrs[GRID] for t in ended if GRID in t.user_attrs) == ["D0", "D1"]
    lost = {t.number: t for t in study.trials if t.state == TrialState.FAIL}
    assert died | {victim.number} <= set(lost)
    for trial in ended:
        assert list(trial.intermediate_values) == list(range(1, trial.params["epochs"] + 1)), "no epoch is missing"
        for number in attempts(trial):
            assert lost[number].params.items() <= trial.params.items(), "parameters of a lost trial are tried again"

    judged = open_study(finalists_plan(own.config, own.layout)).trials
    best = sorted(ended, key=lambda t: t.value)[:2]
    assert {t.user_attrs[SEARCHED] for t in judged} >= {t.number for t in best}
    told = (own.root / "told.txt").read_text().split("\n")[:-1]
    assert len(set(told)) == len(told), "no trial is told twice"
    everything = {f"{plan.name} {t.number}" for t in study.trials if WORKER in t.user_attrs}
    assert everything == {line for line in told if "finalists" not in line}, "those of a killed call are told later"
