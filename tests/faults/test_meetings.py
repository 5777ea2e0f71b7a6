"""Commands that want the same results at once are served one by one or refused, and leave what one alone leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.amount import cases, count

PROJECT = Path(__file__).resolve().parents[2]
REFUSED = re.compile(
    r"error: expected (dguide \S+ alone at \S+|nobody writing \S+, which dguide \S+ reads); "
    r"got (another process|(process \d+ \(dguide \S+\)(, )?)+) at it; "
    r"wait until that has ended and run the same command again\n"
)


def test_files_of_commands_at_once_are_never_mixed(tmp_path: Path) -> None:
    rounds = cases(1, 12)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT)]),
        "OMP_NUM_THREADS": "1",
        "DGUIDE_TRACKING": "off",
    }
    command = [sys.executable, "-m", "tests.faults.meeting", str(tmp_path), str(rounds)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    meetings = json.loads(done.stdout.splitlines()[-1])
    refused = 0
    for meeting in meetings:
        assert meeting["same"], meeting
        codes = [code for code, _ in meeting["ended"]]
        assert 0 in codes, meeting
        for code, told in meeting["ended"]:
            assert code == 0 or (code == 2 and REFUSED.fullmatch(told)), told
        refused += codes.count(2)
        count(f"commands at once: {meeting['name']}", len(codes))
    assert refused > 0, "nobody met anybody"
