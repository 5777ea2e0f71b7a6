"""A stage that is killed at any moment and run again ends in the bytes of an undisturbed run."""

import os
import random
import shutil
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from dguide.run import locked, run_stage
from dguide.settings import Layout
from discriminator_guidance.core import runtime
from discriminator_guidance.core.errors import UserError
from discriminator_guidance.core.files import Resumable
from tests.commands import FORKS, refused, run
from tests.stages.conftest import prepare_study, tiny_settings

MANY = {
    "score.training.iterations": 80,
    "members.d0.epochs": 8,
    "variants.d0_table1.steps": 12,
}  # pieces: a random moment falls between two


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


def repeated(
    whole: Layout, saves: list[str], stage: str, row: dict[str, str], replicate: str = "", pause_s: float = 0
) -> float:
    """The share that is saved again of a stage that is killed soon after it keeps work of a replicate."""
    killed = Layout(Path(shutil.copytree(whole.root, whole.root.with_name("killed"))), "mini")
    run_in(whole.root, stage, row)
    pieces = len(saves)
    process = FORKS.Process(target=run_in, args=(killed.root, stage, row))
    process.start()
    while not [path for name in ("checkpoint.pt", "shard-*.npz") for path in (killed.partial / replicate).rglob(name)]:
        assert process.exitcode is None
        time.sleep(0.01)
    time.sleep(pause_s)
    process.kill()
    process.join()
    assert list(killed.partial.iterdir())
    if stage == "extractor":
        shutil.rmtree(killed.root / "models/mini/extractor")  # as DVC does before it runs a stage again
    run_in(killed.root, stage, row)
    assert outputs(killed) == outputs(whole)
    assert not [path for path in killed.partial.rglob("*") if path.is_file()]
    return (len(saves) - pieces) / pieces


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one until a stage leaves it."""
    forkserver.ensure_running()  # in the folder before
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("stage", "row"), [("score", {}), ("discriminator", {"member": "d0"}), ("guided", {"variant": "d0_table1"})]
)
def test_killed_at_random_and_run_again(folder: Path, saves: list[str], stage: str, row: dict[str, str]) -> None:
    _, whole = prepare_study(folder / "whole", tiny_settings(MANY))
    assert repeated(whole, saves, stage, row, pause_s=random.Random(stage).uniform(0, 0.05)) < 1


def test_a_kill_repeats_no_finished_replicate(folder: Path, saves: list[str]) -> None:
    _, whole = prepare_study(folder / "whole", tiny_settings({"replicates": 3, "extractor.t_min": 0.01}))
    shutil.rmtree(whole.root / "models/mini/extractor")
    assert repeated(whole, saves, "extractor", {}, "r2") < 1 / 3


def test_samples_that_could_not_be_written_are_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, layout = prepare_study(tmp_path, tiny_settings())
    monkeypatch.setitem(runtime.EVERY_S, False, 0.0)
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
    assert (folder / "samples.npz").is_file()
    assert len(saves) == pieces > 0


def test_a_second_process_is_refused_before_it_computes(tmp_path: Path) -> None:
    _, layout = prepare_study(tmp_path, tiny_settings())
    with locked(layout.partial / "discriminator-d1"):
        done = run(layout.root, "dguide", "discriminator", "d1")
    refused(done, "another process works in", "mini/discriminator-d1", "let it end")
    assert not layout.discriminator_report("d1").exists()
