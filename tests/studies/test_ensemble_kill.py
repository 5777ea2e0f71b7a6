"""Study `ensemble` survives `kill -9`: of all its processes, and of one worker in the midst of a trial."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from optuna.trial import TrialState

from discriminator_guidance.studies.ensemble import GRID, ensemble_plan, starting_points
from discriminator_guidance.studies.liveness import WORKER, attempts, settled
from discriminator_guidance.studies.storage import open_study
from tests.stages.conftest import Study
from tests.watching import noted

from .killing import await_trial, begin
from .test_ensemble import project, small_search

__all__ = ["project"]  # the fixture

TRIALS = 9
# The objective and its workers are those of the command; only pruning is off, so that trials last and can be compared.
COMMAND = """
import json, sys
from pathlib import Path
from tests.stages.conftest import Study
from discriminator_guidance.studies.ensemble import run
if __name__ == "__main__":
    root, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    run(Study(root, settings).config, Study(root, settings).context, 9, 2, lambda name, trial: None)
"""


@pytest.fixture
def own(project: Study, tmp_path: Path) -> Study:
    settings = small_search()
    settings["study"]["ensemble"]["pruner"] |= {"startup_trials": 100}
    settings["study"]["tuning"] |= {"images": 48, "batch_size": 12}
    shutil.copytree(project.root, tmp_path / "project", ignore=shutil.ignore_patterns("study"))
    return Study(tmp_path / "project", settings)


def test_killed_workers_lose_no_trial_and_repeat_none(own: Study):
    command = begin(own, COMMAND)
    await_trial(command, ensemble_plan(own.config, own.layout), lambda trial: trial.number >= 2)
    os.killpg(command.pid, signal.SIGKILL)  # the call and both workers
    command.communicate(timeout=60)
    plan = ensemble_plan(own.config, own.layout)
    left = open_study(plan).trials
    died = {t.number for t in left if t.state == TrialState.RUNNING}
    assert died

    command = begin(own, COMMAND)
    victim = await_trial(
        command, ensemble_plan(own.config, own.layout), lambda trial: trial.number not in died and trial.number >= 4
    )
    os.kill(int(victim.user_attrs[WORKER].split("-")[-2]), signal.SIGKILL)
    _, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors.decode()

    study = open_study(plan)
    ended = settled(study, heartbeat=False)
    assert len(ended) == TRIALS
    assert {t.state for t in ended} == {TrialState.COMPLETE}
    assert len({tuple(t.params.values()) for t in ended}) == TRIALS, "no trial of the start was repeated"
    begun = sorted(t.user_attrs[GRID] for t in ended if GRID in t.user_attrs)
    assert begun == sorted(point.attrs[GRID] for point in starting_points(own.config))
    lost = {t.number: t for t in study.trials if t.state == TrialState.FAIL}
    assert died <= set(lost)
    again = {number: t for t in ended for number in attempts(t)}
    assert set(again) == set(lost)
    for number, trial in again.items():
        assert lost[number].params.items() <= trial.params.items(), "parameters of a lost trial are tried again"
    kept = {t.number: t.value for t in left if t.state == TrialState.COMPLETE}
    assert {t.number: t.value for t in ended if t.number in kept} == kept
    askers = {who for who, _ in noted(own.root / "watched.txt")}
    assert askers == {"multiprocessing.spawn"}, "workers are told their task, and nothing else is unpickled"
