"""Workers that share a study: none of its trials is lost or run twice, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from discriminator_guidance.errors import ConfigError, InputError, UserError
from discriminator_guidance.studies.liveness import attempts, settled
from discriminator_guidance.studies.storage import StudyPlan, open_study
from discriminator_guidance.studies.workers import Enqueued, ObjectiveFactory, run_study, sampler_of

from .objectives import crowded, deadly, diverging, fatal, filling, quadratic, refusing

CORNERS = [Enqueued({"x": float(x), "y": 1.0}, {"grid": f"D{x}"}) for x in range(3)]


@contextmanager
def silent(description: str, total: int, unit: str):
    yield lambda amount: None


def plan_in(folder: Path, **changes) -> StudyPlan:
    told = {
        "name": "tiny-search",
        "journal": folder / "study" / "search.log",
        "storage": None,
        "seed": 5,
        "directions": ("minimize",),
        "objective": "a square",
        "determinants": {"settings": "a"},
    }
    return StudyPlan(**(told | changes))


def search(
    plan: StudyPlan, trials: int, workers: int, factory: ObjectiveFactory, enqueue=CORNERS, seen=None
) -> optuna.Study:
    notices: list[str] = []
    study = run_study(
        plan, trials, workers, factory, enqueue, silent, notices.append, (seen if seen is not None else []).append
    )
    study.notices = notices  # type: ignore[attr-defined]
    return study


def whole(study: optuna.Study, heartbeat: bool = False) -> list:
    return settled(study, heartbeat)


def test_one_worker_is_reproduced_by_the_seed(tmp_path):
    first, second = (search(plan_in(tmp_path / name), 14, 1, quadratic) for name in ("a", "b"))
    assert [t.params for t in first.trials] == [t.params for t in second.trials]
    assert len({tuple(t.params.values()) for t in first.trials}) == 14
    other = search(plan_in(tmp_path / "c", seed=6), 5, 1, quadratic)
    assert [t.params for t in other.trials][3:] != [t.params for t in first.trials][3:5]


def test_enqueued_trials_come_first_and_once(tmp_path):
    plan = plan_in(tmp_path)
    search(plan, 2, 1, quadratic)
    study = search(plan, 5, 1, quadratic)
    assert [t.user_attrs.get("grid") for t in study.trials] == ["D0", "D1", "D2", None, None]
    assert [t.params["x"] for t in study.trials[:3]] == [0.0, 1.0, 2.0]
    assert whole(study) == study.trials


def test_going_on_repeats_no_trial_of_the_start(tmp_path):
    plan, seen = plan_in(tmp_path), []
    for trials in (4, 6, 8, 9):
        study = search(plan, trials, 1, quadratic, enqueue=[], seen=seen)
        assert len(study.trials) == trials
    points = [tuple(t.params.values()) for t in study.trials]
    assert len(set(points)) == 9
    assert [t.number for t in seen] == list(range(9))


def test_workers_begun_later_or_beside_others_are_seeded_apart(tmp_path):
    plan = plan_in(tmp_path)
    seeds = [sampler_of(plan, begun, worker)[1] for begun in range(6) for worker in range(6)]
    assert len(set(seeds)) == 36


def test_several_workers_run_each_trial_once(tmp_path):
    seen: list = []
    study = search(plan_in(tmp_path), 12, 3, partial(quadratic, 0.05, tmp_path), seen=seen)
    assert len(study.trials) == len(whole(study)) == len(seen) == 12
    calls = [path.name.split("-") for path in tmp_path.glob("*-*")]
    assert sorted(int(number) for number, _ in calls) == list(range(12))
    assert len({pid for _, pid in calls}) > 1
    assert len({t.user_attrs["sampler_seed"] for t in study.trials}) > 1


def test_a_killed_worker_loses_no_trial(tmp_path):
    study = search(plan_in(tmp_path), 8, 2, partial(deadly, tmp_path, 1))
    assert len(whole(study)) == 8
    assert study.trials[1].state == TrialState.FAIL
    (again,) = [t for t in study.trials if attempts(t) == [1]]
    assert again.state == TrialState.COMPLETE
    assert again.params == study.trials[1].params
    assert again.user_attrs["grid"] == "D1"
    assert any("was killed" in line for line in study.notices)


def test_a_study_whose_workers_were_all_killed_goes_on_when_run_again(tmp_path):
    plan = plan_in(tmp_path)
    with pytest.raises(InputError, match="run the same command again"):
        search(plan, 8, 1, partial(deadly, tmp_path, 4))
    study = search(plan, 8, 1, quadratic)
    assert any("trials 4 died" in line for line in study.notices)
    assert len(whole(study)) == 8
    points = [tuple(t.params.values()) for t in whole(study)]
    assert len(set(points)) == 8
    assert tuple(study.trials[4].params.values()) in points


def test_a_trial_that_always_kills_is_left_failed(tmp_path):
    plan = plan_in(tmp_path)
    enqueue = [Enqueued({"x": 0.0, "y": 0.0}, {})]
    for _ in range(4):
        with pytest.raises(InputError):
            search(plan, 3, 1, fatal, enqueue=enqueue)
    study = search(plan, 3, 1, fatal, enqueue=enqueue)
    assert len(whole(study)) == 3
    assert sum(t.state == TrialState.FAIL for t in study.trials) == 4


def test_divergence_fails_its_trial_and_is_not_tried_again(tmp_path):
    study = search(plan_in(tmp_path), 6, 1, diverging, enqueue=[])
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL] * 3
    assert "lower the learning rate" in study.trials[1].user_attrs["reason"]
    assert len(search(plan_in(tmp_path), 6, 1, diverging, enqueue=[]).trials) == 6


def test_an_error_of_a_worker_is_the_error_of_the_call(tmp_path):
    with pytest.raises(UserError, match="expected a file; got none; make it"):
        search(plan_in(tmp_path), 3, 2, refusing)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_journal_that_takes_no_more_is_one_line_and_the_next_call_goes_on(tmp_path, workers):
    plan = plan_in(tmp_path)
    with pytest.raises(UserError, match=rf"expected to write {plan.journal}; got File too large; give it room"):
        search(plan, 6, workers, partial(filling, plan.journal, 1))
    assert plan.journal.read_bytes().endswith(b"\n")
    study = search(plan, 8, workers, quadratic)
    assert any("trials 1 died" in line for line in study.notices) or workers == 2
    assert len(whole(study)) == 8
    assert {t.user_attrs["grid"] for t in whole(study) if "grid" in t.user_attrs} == {"D0", "D1", "D2"}


def test_a_worker_that_can_make_no_file_says_so_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"to read and write 0\.lock; got No space left on device; give it room"):
        search(plan_in(tmp_path), 3, 1, crowded)
    assert len(whole(search(plan_in(tmp_path), 3, 1, quadratic))) == 3


def test_other_settings_refuse_the_study_and_change_nothing(tmp_path):
    plan = plan_in(tmp_path)
    search(plan, 3, 1, quadratic)
    before = plan.journal.read_bytes()
    for changes in ({"determinants": {"settings": "b"}}, {"seed": 6}):
        with pytest.raises(ConfigError, match="optuna delete-study --study-name tiny-search"):
            search(plan_in(tmp_path, **changes), 5, 1, quadratic)
    with pytest.raises(ConfigError):
        open_study(plan_in(tmp_path, objective="another"))
    assert len(open_study(plan).trials) == 3
    assert plan.journal.read_bytes().startswith(before)


def test_half_a_last_line_is_left_out(tmp_path):
    plan = plan_in(tmp_path)
    search(plan, 3, 1, quadratic)
    with plan.journal.open("ab") as stream:
        stream.write(b'{"op_code":4,"worker_id":"')
    study = search(plan, 5, 1, quadratic)
    assert len(whole(study)) == 5
    assert any("not written to its end" in line for line in study.notices)


COMMAND = """
from functools import partial
from pathlib import Path
from tests.studies.test_workers import plan_in, search
from tests.studies.objectives import quadratic
if __name__ == "__main__":
    search(plan_in(Path({folder!r})), 40, 2, partial(quadratic, 0.3))
"""


def begin(folder: Path) -> subprocess.Popen[str]:
    script = folder / "run.py"
    script.write_text(COMMAND.format(folder=str(folder)))
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    command = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit "ignore"
    )
    plan = plan_in(folder)
    for _ in range(600):
        if plan.journal.is_file() and plan.journal.stat().st_size and len(open_study(plan).trials) > 4:
            return command
        time.sleep(0.1)
    raise AssertionError("the study did not begin")


def test_interrupted_trials_are_tried_again(tmp_path):
    command = begin(tmp_path)
    os.killpg(command.pid, signal.SIGINT)  # as Ctrl-C in a terminal
    _, errors = command.communicate(timeout=60)
    assert errors.count("Traceback") == 1, errors  # of the call alone, which dguide turns into a line
    plan = plan_in(tmp_path)
    states = [t.state for t in open_study(plan).trials]
    assert TrialState.RUNNING not in states
    begun = len(states)
    study = search(plan, begun + 2, 1, quadratic)
    assert len(whole(study)) == begun + 2
    assert len({tuple(t.params.values()) for t in whole(study)}) == begun + 2


def test_killed_altogether_and_run_again(tmp_path):
    command = begin(tmp_path)
    os.killpg(command.pid, signal.SIGKILL)
    command.wait(timeout=60)
    plan = plan_in(tmp_path)
    assert TrialState.RUNNING in [t.state for t in open_study(plan).trials]
    study = search(plan, 12, 2, quadratic)
    assert len(whole(study)) == 12
    assert len({tuple(t.params.values()) for t in whole(study)}) == 12
