"""A process ends with the one that began it, even where that had no time to say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import gone
from tests.stages.conftest import tiny_settings

# The child of a child: the test kills the one in between.
CHILD = """
import time
from discriminator_guidance.orphans import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "ready\\n"
print(child.pid, flush=True)
child.wait()
"""


def test_the_child_of_a_killed_process_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.kill()
    parent.communicate()
    try:
        assert gone(child)
    finally:
        if psutil.pid_exists(child):
            os.kill(child, 9)


# As DVC begins a stage, but that it is killed at once, before the stage has imported anything.
DYING = """
import os, signal, subprocess, sys
child = subprocess.Popen([os.environ.get("SHELL", "/bin/sh"), "-c", sys.argv[1]])
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_stage_whose_dvc_is_killed_while_it_imports_ends_and_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").write_text(json.dumps(tiny_settings()).replace("Infinity", ".inf"))
    stage = f"exec {sys.executable} -m discriminator_guidance.cli real --profile tiny"
    environment = {**os.environ, "SHELL": "/bin/sh", "DVC_STAGE": "real@tiny", "DGUIDE_TRACKING": "off"}
    with (tmp_path / "said").open("w") as said:
        parent = subprocess.Popen(
            [sys.executable, "-c", DYING, stage],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
    parent.wait()
    try:
        assert gone(child, within_s=120.0)
    finally:
        if not gone(child, within_s=0.1):
            os.kill(child, 9)
    assert (tmp_path / "said").read_text() == ""
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "said"}


LIVING = """
import subprocess, sys
sys.exit(subprocess.run(["/bin/sh", "-c", f"exec {sys.executable} -c '{sys.argv[1]}'"]).returncode)
"""
LOYAL = """
import time
from discriminator_guidance.orphans import end_with_parent
end_with_parent(already=True)
time.sleep(1.5)
"""


@pytest.mark.parametrize("session", [True, False])
def test_a_stage_whose_dvc_lives_goes_on(session: bool) -> None:
    assert subprocess.run([sys.executable, "-c", LIVING, LOYAL], start_new_session=session, check=False).returncode == 0
