"""Interrupts a stage in the middle and runs it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pieces import Pieces

from .conftest import Study


class Killed(BaseException):
    """Stands for a process that ends without a chance to clean up."""


def interrupt_and_resume(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch, word: str, name: str = ""
) -> Study:
    """Run a stage in a copy of the study, kill it right after its first save, run it again: it does the rest."""
    again = Study(folder / "again", settings=study.settings)
    shutil.copytree(study.root, again.root, ignore=shutil.ignore_patterns(".partial"))
    for path in study.results[word, name].outputs:
        (again.root / path.relative_to(study.root)).unlink()
    with monkeypatch.context() as patch:
        pieces = Pieces(word, patch.setattr)
        pieces.on_kept = killed
        with pytest.raises(Killed):
            again.run(word, name)
        kept = pieces.kept
        assert list(again.layout.partial.iterdir()), "nothing was kept"
        again.metrics.clear()
        pieces.on_kept = lambda: None
        pieces.begin()
        again.run(word, name)
        assert pieces.done == kept / pieces.share - kept, "not what was left to do"
    assert not any(again.layout.partial.iterdir()), "unfinished work was left behind"
    return again


def killed() -> None:
    raise Killed
