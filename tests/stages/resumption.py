"""Interrupts a stage in the middle and runs it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from discriminator_guidance.artifacts.partial import PartialWork

from .conftest import Study


class Killed(BaseException):
    """Stands for a process that ends without a chance to clean up."""


def interrupt_and_resume(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch, word: str, name: str = ""
) -> Study:
    """Run a stage in a copy of the study, kill it right after its first save, run it again."""
    again = Study(folder / "again", settings=study.settings)
    shutil.copytree(study.root, again.root, ignore=shutil.ignore_patterns(".partial"))
    for path in study.results[word, name].outputs:
        (again.root / path.relative_to(study.root)).unlink()
    saves = 0

    def killed_after_saving(method):
        def save(self, *args, **kwargs):
            nonlocal saves
            method(self, *args, **kwargs)
            saves += 1
            raise Killed

        return save

    with monkeypatch.context() as patch:
        patch.setattr(PartialWork, "save", killed_after_saving(PartialWork.save))
        patch.setattr(PartialWork, "save_shard", killed_after_saving(PartialWork.save_shard))
        with pytest.raises(Killed):
            again.run(word, name)
    assert saves == 1
    assert list(again.layout.partial.iterdir()), "nothing was kept"
    again.metrics.clear()
    again.run(word, name)
    assert not any(again.layout.partial.iterdir()), "unfinished work was left behind"
    return again
