"""A stage that is killed at any moment and run again ends in the bytes of an undisturbed run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.commands import PROJECT, succeed


@pytest.mark.parametrize(("stage", "name"), [("score", []), ("discriminator", ["d0"]), ("guided", ["d0_table1"])])
def test_killed_at_random_moments_and_run_again(tmp_path: Path, stage: str, name: list[str]) -> None:
    shown = succeed(PROJECT, sys.executable, "-m", "tests.faults.killing", str(tmp_path), stage, *name)
    found = json.loads(next(line for line in shown.splitlines() if line.startswith("{")))
    assert found["different"] == []
    assert found["left"] == []
    # What was saved is not computed again, but for the piece that a kill came upon before it was noted.
    repeated = len(found["killed"]) - len(set(found["killed"]))
    assert repeated <= 2
    assert set(found["killed"]) <= set(found["whole"])
