"""Studies in a journal: what they begin with, how they go on, and what becomes of lost trials and damaged files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from dguide.studies.study import complete
from discriminator_guidance.core.errors import ConfigError, InputError
from tests.stages.conftest import tiny_settings, write_params
from tests.studies.worker import CORNERS, codes, ended, start, take_part


def journal(root: Path) -> Path:
    return root / "reports/mini/study/ensemble.journal"


def calls(root: Path) -> list[int]:
    """The numbers of the trials that were begun."""
    return [int(line.split()[0]) for line in (root / "calls.txt").read_text().splitlines()]


def values(study: optuna.Study) -> list[tuple[object, ...]]:
    return [(trial.number, trial.state, trial.value, trial.params) for trial in study.trials]


def test_a_study_begins_with_its_grid_and_resumes_as_if_never_interrupted(root: Path, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copy(root / "params.yaml", other)
    whole = take_part(root, 14)
    take_part(other, 2)
    take_part(other, 9)
    resumed = take_part(other, 14)
    assert values(resumed) == values(whole)
    assert calls(other) == list(range(14))
    begun = {trial.user_attrs["grid"]: trial.params for trial in resumed.trials if "grid" in trial.user_attrs}
    assert begun == CORNERS
    assert [trial.number for trial in complete(resumed)[:1]] == [resumed.best_trial.number]


def test_a_trial_that_diverges_or_cannot_be_sampled_counts(root: Path):
    for y in (0.0, 1.0):
        take_part(root, 3).enqueue_trial({"x": 4.9, "y": y})
    for trial in take_part(root, 5).trials[3:]:
        assert (trial.state, "lower x" in trial.user_attrs["reason"]) == (TrialState.PRUNED, True)
    assert len(ended(take_part(root, 6))) == len(take_part(root, 6).trials) == 6, "they are not tried again"


def test_a_killed_worker_costs_its_trial_which_runs_again_when_asked(root: Path):
    assert codes([start(root, 8, victim=4)]) == [-9]
    study = take_part(root, 8)
    assert study.trials[4].state == TrialState.RUNNING, "another process might still run it"
    study = take_part(root, 8, recover_all=True)
    assert len(ended(study)) == 8
    (dead,) = study.get_trials(states=(TrialState.FAIL,))
    assert dead.number == 4
    (again,) = [trial for trial in study.trials if trial.params == dead.params and trial.number != 4]
    assert calls(root) == [0, 1, 2, 3, 4, 5, 6, 7, again.number]
    assert values(take_part(root, 8, recover_all=True)) == values(study)


def test_processes_share_a_journal(root: Path):
    take_part(root, 1)
    assert codes([start(root, 24, 0.2, workers=3) for _ in range(3)]) == [0, 0, 0]
    study = take_part(root, 24)
    assert 24 <= len(ended(study)) <= 26, "each of them may have begun the last one"
    assert sorted(calls(root)) == [trial.number for trial in study.trials]
    assert len({tuple(trial.params.values()) for trial in study.trials}) == len(study.trials)
    assert len({line.split()[1] for line in (root / "calls.txt").read_text().splitlines()}) >= 3, "of four processes"


def test_a_study_of_other_settings_or_networks_is_refused_and_stays(root: Path):
    take_part(root, 3)
    before = journal(root).read_bytes()
    for change in ({"study.ensemble.w2": [0.0, 3.0]}, {"study.seed": 21}):
        write_params(root, tiny_settings(change))
        with pytest.raises(ConfigError, match=r"was begun with other settings.*ensemble\* away"):
            take_part(root, 4)
    write_params(root, tiny_settings())
    weights = root / "models/mini/fid_network/model.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"others")
    with pytest.raises(ConfigError, match=r"was begun with other networks.*ensemble\* away"):
        take_part(root, 4)
    assert journal(root).read_bytes() == before


LINES = [
    '{"op_code": 4, "wor',
    '{"op_code":' + "[" * 50_000 + "]" * 50_000 + "}",
    '{"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": null, "state": 1, "value": "low"}',
    '{"op_code": 99, "worker_id": "w"}',
]
ADDED = [lambda text, line=line: f"{text}{line}\n{line}\n" for line in LINES]


@pytest.mark.parametrize("damage", [*ADDED, lambda text: text[:-9], lambda text: text[:-1], lambda text: text + "\n"])
def test_a_damaged_journal_is_one_line_and_not_written_to(root: Path, damage: Callable[[str], str]):
    take_part(root, 3)
    damaged = damage(journal(root).read_text())
    journal(root).write_text(damaged)
    with pytest.raises(InputError, match=r"ensemble\.journal is damaged: .*; restore it with git"):
        take_part(root, 4)
    assert journal(root).read_text() == damaged


@pytest.mark.parametrize("address", ["foo://host/x", "postgresql+psycopg://127.0.0.1:abc/x"])
def test_a_wrong_address_is_one_line(root: Path, address: str):
    write_params(root, tiny_settings({"study.storage": address}))
    with pytest.raises(ConfigError, match=r"study\.storage cannot be opened"):
        take_part(root, 1)


def test_a_journal_that_is_a_pipe_is_not_waited_for(root: Path):
    journal(root).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(journal(root))
    with pytest.raises(InputError, match="a pipe or a device"):
        take_part(root, 1)
