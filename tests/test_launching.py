"""A command that starts itself in several ranks: what ends one ends all, and is one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from discriminator_guidance import launching
from discriminator_guidance.errors import ConfigError

from .amount import cases
from .sharing import free_port
from .stages.conftest import Study
from .test_pipeline import write_yaml

COMMAND = [sys.executable, "-m", "discriminator_guidance.cli", "fake", "--profile", "tiny"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder that `fake` can run in, for a while."""
    study = Study(tmp_path_factory.mktemp("trained"))
    study.settings["fake"] |= {"images": 1200, "batch_size": 20, "shard_size": 20}
    study.ensure("score")
    write_yaml(study.root / "configs" / "tiny.yaml", study.settings)
    return study.root


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "project"))


def environment(ranks: str) -> dict[str, str]:
    return {**os.environ, "DGUIDE_TRACKING": "off", "COLUMNS": "300", "DGUIDE_RANKS": ranks}


def started(project: Path) -> tuple[subprocess.Popen[str], dict[str, psutil.Process]]:
    """The command in two ranks, both of which have drawn something, and its ranks by number."""
    process = subprocess.Popen(
        COMMAND, cwd=project, env=environment("2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while len(list((project / ".partial").rglob("*.sealed"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing was drawn"
        time.sleep(0.02)
    return process, {child.environ()["RANK"]: child for child in psutil.Process(process.pid).children()}


def listening(process: psutil.Process) -> set[str]:
    return {each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}


def gone(processes: dict[str, psutil.Process]) -> bool:
    return not psutil.wait_procs(list(processes.values()), timeout=20)[1]


def test_a_dead_rank_ends_the_others_with_one_line_and_what_is_complete_is_kept(project: Path):
    process, found = started(project)
    assert set(found) == {"0", "1"}
    found["1"].kill()
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.splitlines() == [
        "error: expected every rank to finish; got rank 1 ended by SIGKILL, so the others were ended too; "
        "run the same command again: what is complete is kept"
    ]
    assert out == ""
    assert gone(found)
    assert list((project / ".partial").rglob("*.sealed"))
    assert not (project / "data" / "tiny" / "fake").exists()


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)][: cases(1, 3)],
    ids=lambda value: str(value),
)
def test_what_ends_the_command_ends_its_ranks(project: Path, sent: signal.Signals, code: int):
    process, found = started(project)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in error
    assert gone(found)


def test_no_other_machine_can_reach_the_ranks(project: Path):
    process, found = started(project)
    try:
        assert listening(psutil.Process(process.pid)) == {"127.0.0.1"}  # where the ranks find each other
        for rank in found.values():
            assert listening(rank) <= {"127.0.0.1"}
            inet = rank.net_connections("inet")
            assert {each.laddr.ip.removeprefix("::ffff:") for each in inet} == {"127.0.0.1"}
            # Where the machine's name has an address in the network, gloo would listen there.
            assert rank.environ()["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def break_weights(project: Path) -> None:
    weights = project / "models" / "tiny" / "score" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])


def test_an_error_that_all_ranks_meet_is_one_line(project: Path):
    break_weights(project)
    done = subprocess.run(COMMAND, cwd=project, env=environment("2"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.removeprefix("error: ").removeprefix("rank 1: ").startswith("expected whole weights in ")


def test_nothing_is_loaded_that_unpickles_what_arrives(project: Path):
    """The agents of torchrun do, where they meet (`dynamic_rendezvous`)."""
    break_weights(project)  # so that ranks have met, and end
    told = environment("2") | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(COMMAND, cwd=project, env=told, capture_output=True, text=True, check=False)
    assert "error: expected whole weights in " in done.stderr.replace("rank 1: ", "")
    loaded = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert loaded.count("torch.distributed.rendezvous") == 3, "of the command and two ranks"
    assert not [name for name in loaded if name.startswith("torch.distributed.elastic")]


def test_a_stage_with_nothing_to_share_runs_once(project: Path):
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    real = [*COMMAND[:3], "real", "--profile", "tiny"]
    before = (project / "data" / "tiny" / "real" / "card.json").stat().st_mtime_ns
    done = subprocess.run(real, cwd=project, env=environment("2") | told, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (project / "data" / "tiny" / "real" / "card.json").stat().st_mtime_ns == before


def test_a_hang_up_that_was_to_be_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with launching._noted_signals() as stops:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            assert stops == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "100000", " 2"])
def test_a_number_of_ranks_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DGUIDE_RANKS", text)
    with pytest.raises(ConfigError, match=r"1 to 1024 in DGUIDE_RANKS; got .*; mend it or unset it"):
        launching.wanted_ranks()


@pytest.mark.parametrize(("count", "threads", "cores", "said"), [(2, 1, 2, False), (2, 2, 2, True), (3, 1, 2, True)])
def test_ranks_that_share_a_core_are_told_of(count: int, threads: int, cores: int, said: bool):
    assert bool(launching.crowding(count, threads, cores)) == said


def test_a_rank_starts_no_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DGUIDE_RANKS", "2")
    assert launching.wanted_ranks() == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launching.wanted_ranks() == 1
    monkeypatch.delenv("DGUIDE_RANKS")
    monkeypatch.delenv("WORLD_SIZE")
    assert launching.wanted_ranks() == 1
