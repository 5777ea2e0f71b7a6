"""A study whose processes are killed at random moments loses no trial, repeats none, and leaves no process behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.studies.liveness import attempts, settled
from discriminator_guidance.studies.storage import open_study
from tests.amount import cases, count
from tests.processes import descendants, group_gone
from tests.studies.test_workers import plan_in

PROJECT = Path(__file__).resolve().parents[2]
TRIALS = 4  # more that each call is asked for, so that there is always something to kill
PAUSE_S = 0.15
# One call of a study; each trial that it is told leaves a line.
COMMAND = """
import sys
from functools import partial
from pathlib import Path
from tests.studies.objectives import quadratic
from tests.studies.test_workers import CORNERS, plan_in, silent
from discriminator_guidance.studies.workers import run_study
if __name__ == "__main__":
    folder, trials, workers, pause_s = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    def told(trial):
        with (folder / "told.txt").open("a") as stream:
            stream.write(f"{trial.number}\\n")
    run_study(plan_in(folder), trials, workers, partial(quadratic, pause_s, folder), CORNERS, silent, print, told)
"""
# Who is killed, and how: the call with its workers, as by Ctrl-C in a terminal; the call alone; one worker.
WAYS = [
    ("call", signal.SIGKILL),
    ("all", signal.SIGINT),
    ("worker", signal.SIGKILL),
    ("all", signal.SIGTERM),
    ("call", signal.SIGTERM),
    ("all", signal.SIGKILL),
    ("call", signal.SIGINT),
]


def begin(folder: Path, trials: int, workers: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "command.py").write_text(COMMAND)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT)]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, str(folder / "command.py"), str(folder), str(trials), str(workers), str(PAUSE_S)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit "ignore"
    )


def kill(command: subprocess.Popen[str], whom: str, number: signal.Signals) -> None:
    """Kill the call, or what belongs to it, if it is still there."""
    if whom == "all":
        os.killpg(command.pid, number)
        return
    # The first that a call begins looks after shared resources; workers follow.
    workers = sorted(descendants(command.pid))[1:]
    os.kill(workers[-1] if whom == "worker" and workers else command.pid, number)


def whole(study: optuna.Study) -> list[FrozenTrial]:
    return settled(study, heartbeat=False)


@pytest.mark.parametrize(("workers", "few", "many"), [(1, 1, 7), (3, 2, 21)])
def test_killed_at_random_moments_and_run_again(tmp_path: Path, workers: int, few: int, many: int) -> None:
    draw, kills, trials = random.Random(workers), cases(few, many), 0
    disturbed, plan, first = tmp_path / "disturbed", plan_in(tmp_path / "disturbed"), []
    for number in range(kills):
        whom, how = WAYS[(number + workers) % len(WAYS)]
        trials += TRIALS
        begun = len(open_study(plan).trials) if plan.journal.is_file() else 0
        command = begin(disturbed, trials, workers)
        while not plan.journal.is_file() or len(open_study(plan).trials) <= begun:
            assert command.poll() is None, command.communicate()[1]
            time.sleep(0.05)
        time.sleep(draw.uniform(0, TRIALS * PAUSE_S / workers))
        if command.poll() is None:
            kill(command, whom, how)
        command.communicate(timeout=300)
        assert group_gone(command.pid), "a process outlived the call"
        first = first or open_study(plan).trials
        count(f"kills survived: study of {workers} worker{'s' * (workers > 1)}")

    command = begin(disturbed, trials, workers)
    _, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    study = open_study(plan)
    ended = whole(study)
    assert len(ended) == trials
    assert {trial.state for trial in ended} == {TrialState.COMPLETE}
    assert len({tuple(trial.params.values()) for trial in ended}) == trials, "a trial is there twice"
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    for trial in ended:
        x, y = trial.params["x"], trial.params["y"]
        assert trial.value == (x - 2) ** 2 + y**2
    ran = [int(path.name.split("-")[0]) for path in disturbed.glob("[0-9]*-*")]
    assert len(set(ran)) == len(ran), "a trial was run by two"
    lost = {trial.number: trial for trial in study.trials if trial.state == TrialState.FAIL}
    assert len(lost) <= kills * workers, "a kill costs what its workers were at, and no more"
    again = {before: trial for trial in study.trials for before in attempts(trial)}
    assert set(again) == set(lost)
    for before, trial in again.items():
        assert lost[before].params.items() <= trial.params.items()
    told = (disturbed / "told.txt").read_text().split()
    assert len(set(told)) == len(told), "a trial was told twice"

    if workers == 1:  # the seed promises the trials of an undisturbed study until the first kill
        command = begin(tmp_path / "undisturbed", TRIALS, 1)
        assert command.wait(timeout=300) == 0
        promised = open_study(plan_in(tmp_path / "undisturbed")).trials
        kept = [trial for trial in first if trial.state == TrialState.COMPLETE]
        for trial, other in zip(kept, promised, strict=False):
            assert (trial.params, trial.value) == (other.params, other.value)
