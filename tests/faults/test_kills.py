"""A stage that is killed or interrupted at any moment, and run again, ends in the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.amount import cases, count

PROJECT = Path(__file__).resolve().parents[2]
STAGES = [("score", ""), ("discriminator", "d0"), ("guided", "d0_table1"), ("evaluation", "d0")]


@pytest.mark.parametrize(("word", "name"), STAGES)
def test_killed_at_random_moments_and_run_again(tmp_path: Path, word: str, name: str) -> None:
    kills = cases(1, 15)
    command = [sys.executable, "-m", "tests.faults.nursery", str(tmp_path), word, name, str(kills), "7"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT)]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 1 + kills
    count(f"kills survived: {word}", 1 + kills)
    assert told["made"] > 0
    assert told["wrong"] == [], "a file with its final name was not whole"
    assert told["code"] == 0, done.stderr
    assert told["different"] == []
    assert told["unfinished"] == []
    assert told["needed"] > 0
    assert told["wasteful"] == [], "what is kept is not done again, and a kill costs one interval"
    assert told["resumed"] > 0
    count(f"pieces of work repeated: {word}", told["repeated"])
