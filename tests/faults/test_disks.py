"""A full or read-only disk is one line; what was complete is kept, and with room the same command ends as always."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.amount import count

PROJECT = Path(__file__).resolve().parents[2]
FULL, READ_ONLY = "No space left on device", "Read-only file system"
WORDS = {
    "full output": FULL,
    "read-only output": READ_ONLY,
    "full disk under shards": FULL,
    "read-only disk under shards": READ_ONLY,
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("disks")
    private = ["unshare", "--mount", "--map-root-user"]
    able = subprocess.run([*private, "mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
    if able.returncode:
        pytest.skip("this machine cannot mount a small file system: `unshare --mount` failed")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT)]),
        "OMP_NUM_THREADS": "1",
        "DGUIDE_TRACKING": "off",
    }
    command = [*private, sys.executable, "-m", "tests.faults.disks", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("fault", WORDS)
def test_a_disk_that_takes_no_more(told: dict[str, Any], fault: str) -> None:
    hit = told["results"][fault]
    assert hit["code"] == 2, hit
    (line,) = hit["told"].splitlines()
    assert line.startswith("error: expected to write ")
    assert WORDS[fault] in line
    assert set(hit["outputs"].items()) < set(told["wanted"].items()), "a file was not whole, or nothing was missing"
    assert all(hit["shards"]), "a shard was cut short"
    if fault == "full output":
        assert len(hit["shards"]) == told["shards"], "finished shards were not kept"
    if fault == "full disk under shards":
        assert 0 < len(hit["shards"]) < told["shards"]
    (mended,) = [result for name, result in told["results"].items() if name.startswith(f"{fault}, ")]
    assert mended["code"] == 0, mended
    assert mended["outputs"] == told["wanted"]
    assert mended["shards"] == []
    count("disks full or read-only")
