"""A project folder with settings alone, for studies that need no networks; and tiny searches."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from dguide.settings import Layout, load_config
from dguide.studies.study import run_study
from tests.stages.conftest import Tiny, made, tiny, tiny_settings, write_params

__all__ = ["made", "tiny"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with params.yaml."""
    write_params(tmp_path, tiny_settings())
    return tmp_path


@pytest.fixture(scope="module")
def search(made, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Tiny]:
    """Runs a search of so many trials on a tiny study of its own."""

    def run(word: str, trials: int) -> Tiny:
        root = made(tmp_path_factory.mktemp(word) / "study")
        config, layout = load_config(root / "params.yaml"), Layout(root, "mini")
        run_study(word, config, layout, trials, False)
        return config, layout

    return run


def rows(layout: Layout, word: str) -> list[dict[str, str]]:
    """The trials in the table of a search."""
    return list(csv.DictReader((layout.study / f"{word}.csv").open()))
