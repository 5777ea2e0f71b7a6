"""`dguide`, `dvc` and other commands as a user starts them."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FIRST_IN_PATH: list[str] = []  # folders whose commands are taken instead of those beside this Python
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2", "--no-python")
FORKS = multiprocessing.get_context("forkserver")  # imports once, and computes nothing itself
FORKS.set_forkserver_preload(["tests.faults.test_kills", "tests.studies.worker"])
PRIVATE = ("unshare", "--map-root-user")  # what mounts or cuts off networks without touching the machine


def environment(**variables: str) -> dict[str, str]:
    """The variables of a command: one thread, no tracking, a wide terminal."""
    path = os.pathsep.join([*FIRST_IN_PATH, str(Path(sys.executable).parent), os.environ["PATH"]])
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_", "MLFLOW_"))}
    return {**outer, "PATH": path, "OMP_NUM_THREADS": "1", "DGUIDE_TRACKING": "off", "COLUMNS": "200", **variables}


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    settings = environment(**variables)
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False, timeout=300)


def succeed(folder: Path, *command: str, **variables: str) -> str:
    """What a command prints that must succeed."""
    done = run(folder, *command, **variables)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """A command ended with one line that holds these words, and exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def unshared(*options: str) -> list[str]:
    """A prefix that gives a command name spaces of its own; empty where this machine cannot."""
    prefix = [*PRIVATE, *options]
    able = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if able and able.returncode == 0 else []
