"""A result has one writer or many readers; what a killed process held is free at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from discriminator_guidance.artifacts.claims import BusyError, alone, claimed

PROGRAM = """
import sys, time
from pathlib import Path
from discriminator_guidance.artifacts.claims import claimed
with claimed(Path(sys.argv[1]), "the other", sys.argv[2].split(), sys.argv[3].split()):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def another(folder: Path, writes: str = "", reads: str = ""):
    """A process that holds a claim until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), writes, reads], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def claim(folder: Path, writes: str = "", reads: str = "") -> None:
    with claimed(folder, "this test", writes.split(), reads.split()):
        pass


def test_a_writer_keeps_writers_and_readers_away_and_is_named(tmp_path: Path) -> None:
    with another(tmp_path, writes="guided-d0", reads="score") as process:
        holder = rf"got process {process.pid} \(the other\) at it; wait until that has ended"
        with pytest.raises(BusyError, match=f"expected this test alone at guided-d0; {holder}"):
            claim(tmp_path, writes="guided-d0")
        with pytest.raises(BusyError, match=f"nobody writing guided-d0, which this test reads; {holder}"):
            claim(tmp_path, writes="evaluation-d0", reads="guided-d0")
        claim(tmp_path, writes="guided-d1 evaluation-d0", reads="score")


@pytest.mark.parametrize("litter", [b"\0" * 64, b"\xff\xfe", b"x y", b"1" * 5000 + b" x", b"-1 x", b"7"])
def test_a_claim_with_litter_in_it_is_still_one(tmp_path: Path, litter: bytes) -> None:
    with another(tmp_path, writes="score") as process:
        path = tmp_path / "score.claim"
        told = path.read_bytes()
        path.write_bytes(litter)
        with pytest.raises(BusyError, match="got another process at it"):
            claim(tmp_path, writes="score")
        path.write_bytes(litter + b"\n" + told)
        with pytest.raises(BusyError, match=rf"got process {process.pid} \(the other\) at it"):
            claim(tmp_path, writes="score")


def test_readers_share_and_keep_writers_away(tmp_path: Path) -> None:
    with another(tmp_path, reads="score") as first, another(tmp_path, reads="score") as second:
        claim(tmp_path, reads="score")
        with pytest.raises(BusyError, match=rf"process {first.pid} \(the other\), process {second.pid} \(the other\)"):
            claim(tmp_path, writes="score")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_held_is_free(tmp_path: Path, number: signal.Signals) -> None:
    with another(tmp_path, writes="score") as process:
        process.send_signal(number)
        process.wait()
        claim(tmp_path, writes="score")


def test_a_refused_claim_holds_nothing(tmp_path: Path) -> None:
    with another(tmp_path, writes="score"):
        with pytest.raises(BusyError):
            claim(tmp_path, writes="guided-d0", reads="extractor score")
        with another(tmp_path, writes="guided-d0 extractor"):
            pass


COUNTING = """
import sys
from pathlib import Path
from discriminator_guidance.artifacts.claims import alone
place = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    with alone(place / "locks" / "counter.lock"):
        number = int((place / "counter").read_text())
        (place / "counter").write_text(str(number + 1))
"""


def test_what_several_processes_read_and_write_again_loses_no_change(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", COUNTING, str(tmp_path)]
    counting = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in counting:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in counting:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in counting:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "counter").read_text() == "600"


def test_an_interrupted_change_keeps_nobody_waiting(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone(tmp_path / "one.lock"):
            raise ZeroDivisionError
