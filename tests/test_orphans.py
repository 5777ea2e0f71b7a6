"""A process ends with the one that began it, even where that had no time to say so."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from tests.processes import gone

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
