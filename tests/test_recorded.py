"""Durations read back from a real store: only of finished, undisturbed runs with the settings of now."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from discriminator_guidance import tracking
from discriminator_guidance.errors import InputError
from discriminator_guidance.recorded import recorded_runs

WORK_S = 0.2
SETTINGS = {"runtime": {"threads": 2}, "images": 1000, "range": [1, 2]}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith(("MLFLOW_", "DGUIDE_TRACKING", "DVC_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("DGUIDE_TRACKING_WAIT_S", "120")


def work(root: Path, name: str, settings: dict[str, object], fails: bool = False) -> None:
    with tracking.run(root, "mini", name, {"stage": name}, settings, {}):
        time.sleep(WORK_S)
        if fails:
            raise RuntimeError("interrupted")


def test_durations_of_finished_runs(tmp_path):
    work(tmp_path, "fake", SETTINGS)
    work(tmp_path, "score", SETTINGS | {"images": 500})
    with pytest.raises(RuntimeError, match="interrupted"):
        work(tmp_path, "guided-d0", SETTINGS, fails=True)
    work(tmp_path, "guided-d0", SETTINGS)
    with pytest.raises(RuntimeError, match="interrupted"):
        work(tmp_path, "guided-d1", SETTINGS, fails=True)
    names = ("fake", "score", "guided-d0", "guided-d1", "report")
    found = recorded_runs(tmp_path, "mini", dict.fromkeys(names, SETTINGS))
    assert set(found) == {"fake", "score", "guided-d0"}
    assert found["fake"].reservation == ""
    # MLflow is imported while the work goes on and told its end afterwards; neither belongs to the work.
    assert found["fake"].seconds >= WORK_S - 0.01
    assert "other settings (images)" in found["score"].reservation
    assert "interrupted" in found["guided-d0"].reservation
    work(tmp_path, "guided-d0", SETTINGS)
    assert recorded_runs(tmp_path, "mini", {"guided-d0": SETTINGS})["guided-d0"].reservation == ""
    assert recorded_runs(tmp_path, "other", {"fake": SETTINGS}) == {}


def test_a_run_of_several_processes_is_not_compared_with_one(tmp_path):
    with tracking.run(tmp_path, "mini", "fake", {"stage": "fake", "ranks": "4"}, SETTINGS, {}):
        time.sleep(WORK_S)
    assert recorded_runs(tmp_path, "mini", {"fake": SETTINGS})["fake"].reservation == "was shared by 4 processes"


def test_nothing_is_made_where_nothing_was_recorded(tmp_path):
    assert recorded_runs(tmp_path, "mini", {"fake": SETTINGS}) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_read_is_one_line(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table experiments (colour integer)")
    with pytest.raises(InputError, match="leave --compare out"):
        recorded_runs(tmp_path, "mini", {"fake": SETTINGS})
