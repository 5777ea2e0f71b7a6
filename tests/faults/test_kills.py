"""A stage that is killed at any moment and run again ends in the bytes of an undisturbed run."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from dguide import tracking
from dguide.run import run_stage
from dguide.settings import Layout
from discriminator_guidance.core.errors import UserError
from discriminator_guidance.core.files import Resumable
from tests.stages.conftest import prepare_study, tiny_settings

FORKS = multiprocessing.get_context("forkserver")  # imports once, and computes nothing itself
FORKS.set_forkserver_preload(["tests.stages.conftest"])
MANY = {  # pieces, so that a random moment falls between two
    "score.training.iterations": 80,
    "guided.images": 48,  # in batches of 8
    "members.d0.epochs": 8,
}


def outputs(layout: Layout) -> dict[str, bytes]:
    files = [path for top in ("data", "models", "reports") for path in (layout.root / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in files}


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards and checkpoints that this process saves."""
    found: list[str] = []
    for name in ("save", "save_shard"):
        original = getattr(Resumable, name)

        def noted(self, *given, original=original, name=name, **arrays) -> None:
            original(self, *given, **arrays)
            found.append(name)

        monkeypatch.setattr(Resumable, name, noted)
    return found


def run_in(root: Path, stage: str, row: dict[str, str]) -> None:
    """A stage as its command runs it."""
    os.chdir(root)
    run_stage(stage, Path("params.yaml"), **row)


ROWS = [("score", {}), ("discriminator", {"member": "d0"}), ("guided", {"variant": "d0_table1"})]


@pytest.mark.parametrize(("stage", "row"), ROWS)
def test_killed_at_a_random_moment_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: list[str], stage: str, row: dict[str, str]
) -> None:
    forkserver.ensure_running()  # in this folder
    monkeypatch.chdir(tmp_path)  # and back, at the end
    _, whole = prepare_study(tmp_path / "whole", tiny_settings(MANY))
    killed = Layout(Path(shutil.copytree(whole.root, tmp_path / "killed")), "mini")
    run_in(whole.root, stage, row)
    pieces = len(saves)
    process = FORKS.Process(target=run_in, args=(killed.root, stage, row))
    process.start()
    while not [*killed.partial.rglob("checkpoint.pt"), *killed.partial.rglob("shard-*.npz")]:
        assert process.exitcode is None
        time.sleep(0.01)
    time.sleep(random.Random(stage).uniform(0, 0.05))
    process.kill()
    process.join()
    assert list(killed.partial.iterdir())
    run_in(killed.root, stage, row)
    assert outputs(killed) == outputs(whole)
    assert not [path for path in killed.partial.rglob("*") if path.is_file()]
    assert len(saves) - pieces < pieces, "what was saved is not computed again"


def test_a_kill_repeats_no_finished_replicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: list[str]
) -> None:
    forkserver.ensure_running()
    monkeypatch.chdir(tmp_path)
    _, whole = prepare_study(tmp_path / "whole", tiny_settings({"replicates": 3, "extractor.t_min": 0.01}))
    shutil.rmtree(whole.root / "models/mini/extractor")
    killed = Layout(Path(shutil.copytree(whole.root, tmp_path / "killed")), "mini")
    run_in(whole.root, "extractor", {})
    pieces = len(saves)
    process = FORKS.Process(target=run_in, args=(killed.root, "extractor", {}))
    process.start()
    while not [*(killed.partial / "r2").rglob("checkpoint.pt")]:
        assert process.exitcode is None
        time.sleep(0.01)
    process.kill()
    process.join()
    shutil.rmtree(killed.root / "models/mini/extractor")  # as DVC does before it runs a stage again
    run_in(killed.root, "extractor", {})
    assert outputs(killed) == outputs(whole)
    assert len(saves) - pieces < pieces / 3
    assert not [path for path in killed.partial.rglob("*") if path.is_file()]


def test_samples_that_could_not_be_written_are_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, layout = prepare_study(tmp_path, tiny_settings())
    monkeypatch.setattr(tracking, "LINE_EVERY_S", 0.0)
    row = {"variant": "edm"}
    folder = layout.guided("edm")
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way, as a full disk is")
    monkeypatch.chdir(layout.root)
    with pytest.raises(UserError, match="complete results are kept"):
        run_in(layout.root, "guided", row)
    pieces = len(saves)
    folder.unlink()
    assert "s left" in capsys.readouterr().err
    run_in(layout.root, "guided", row)
    assert "s left" not in capsys.readouterr().err, "what was kept says nothing of the speed"
    assert (folder / "samples.npz").is_file()
    assert len(saves) == pieces > 0
