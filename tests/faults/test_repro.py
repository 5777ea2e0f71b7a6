"""DVC killed, twice at once, beside a study, and without its remote: one stage of the real dvc.yaml."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from discriminator_guidance.artifacts.claims import claimed
from tests.amount import cases, count
from tests.processes import descendants, gone
from tests.test_pipeline import dvc, project

__all__ = ["project"]  # the fixture

pytestmark = pytest.mark.pipeline

STAGE = "real@mini"
# DVC's own words for "somebody else is at it".
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")


@pytest.fixture(scope="module")
def away(project: Path) -> Path:
    """The project with a remote that nobody answers at: everything here works without it."""
    away = "    remote = away\n['remote \"away\"']\n    url = http://127.0.0.1:9/cache\n"
    with (project / ".dvc" / "config.local").open("a") as stream:
        stream.write(away)
    return project


def begin(root: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DGUIDE_TRACKING": "off",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *arguments, STAGE],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(root: Path) -> bytes:
    return (root / "data" / "mini" / "real" / "train.npz").read_bytes()


def at_work(root: Path, command: subprocess.Popen[str]) -> list[int]:
    """The processes of the stage as soon as it has begun."""
    claim = root / ".partial" / "mini" / "claims" / "real.claim"
    while True:
        assert command.poll() is None, command.communicate()[0]
        begun = descendants(command.pid)
        if begun and claim.is_file() and claim.read_text().startswith(tuple(f"{number} " for number in begun)):
            return begun
        time.sleep(0.02)


def test_killed_pipelines_leave_no_process_and_two_at_once_go_on(away: Path):
    for number in [signal.SIGKILL, signal.SIGTERM][: cases(1, 2)]:
        command = begin(away, "--force")
        stages = at_work(away, command)
        os.kill(command.pid, number)  # DVC alone: it cannot take the stage along
        command.communicate()
        assert all(gone(process) for process in stages)
        count("kills survived: dvc repro")
    assert '"write": {"' in (away / ".dvc" / "tmp" / "rwlock").read_text(), "DVC's lock was left behind"

    commands = [begin(away) for _ in range(2)]
    ended = [(command.communicate()[0], command.returncode) for command in commands]
    assert [code for _, code in ended].count(0) >= 1, ended
    for told, code in ended:
        assert code == 0 or any(words in told for words in BUSY), told
        assert "Traceback" not in told
    assert any("had been killed. Auto removed it" in told for told, _ in ended), ended
    assert "up to date" in dvc(away, "status", STAGE)
    with np.load(away / "data" / "mini" / "real" / "train.npz") as archive:
        assert len(archive["images"]) == len(archive["labels"])


def test_a_pipeline_killed_as_it_begins_a_stage_takes_that_along(away: Path):
    claim = away / ".partial" / "mini" / "claims" / "real.claim"
    for _ in range(10):  # a machine that is slow to look may find the stage at work already
        before = claim.read_text() if claim.is_file() else ""
        command = begin(away, "--force")
        while not (stages := [process for process in descendants(command.pid) if is_stage(process)]):
            assert command.poll() is None, command.communicate()[0]
            time.sleep(0.005)
        os.kill(command.pid, signal.SIGKILL)
        early = (claim.read_text() if claim.is_file() else "") == before
        command.communicate()
        assert all(gone(process) for process in stages)
        if early:
            break
    else:
        pytest.fail("the stage was never met before it had come to work")
    dvc(away, "repro", STAGE)


def is_stage(process: int) -> bool:
    """Whether DVC has begun a process as a stage, of which nothing else can be seen yet."""
    try:
        return "DVC_STAGE" in psutil.Process(process).environ()
    except psutil.Error:
        return False


def test_a_pipeline_beside_a_study_is_refused_and_changes_nothing(away: Path):
    if not (away / "dvc.lock").is_file():
        dvc(away, "repro", STAGE)
    before = train(away)
    with claimed(away / ".partial" / "mini" / "claims", "dguide study ensemble", [], ["real"]):
        command = begin(away, "--force")
        told = command.communicate()[0]
    assert command.returncode != 0
    words = f"expected dguide real alone at real; got process {os.getpid()} (dguide study ensemble) at it; wait"
    assert words in " ".join(told.split())
    assert train(away) == before


def test_a_remote_that_does_not_answer_hinders_push_and_pull_alone(away: Path):
    if not (away / "dvc.lock").is_file():
        dvc(away, "repro", STAGE)
    before = train(away)
    with pytest.raises(AssertionError, match="failed to push data to the cloud"):
        dvc(away, "push", STAGE)
    cache = away / ".dvc" / "cache"
    cache.rename(away / "elsewhere")
    (away / "data" / "mini" / "real" / "train.npz").unlink()
    with pytest.raises(AssertionError, match="failed to pull data from the cloud"):
        dvc(away, "pull", STAGE)
    (away / "elsewhere").rename(cache)
    dvc(away, "checkout", STAGE)
    assert train(away) == before
