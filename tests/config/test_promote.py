"""A row that a study chose, written back to the settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from discriminator_guidance.config import load_config, promote
from discriminator_guidance.errors import ConfigError

from .settings import PROJECT

MEMBER = {"start": "models/mini/extractor", "seed": 7, "epochs": 9, "learning_rate": 2e-4, "weight_decay": 0.0,
          "t_min": 0.001, "bagging": 0.6}  # fmt: skip
VARIANT = {"needs": "discriminator", "members": ["d0", "d1"], "rule": "mean_logit", "weights": [0.25, 0.75],
           "w1": 1.5, "w2": 0.0, "boosting": True, "window": [0.1, 0.9]}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    return tmp_path


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith(("  tuned:", "  chosen:"))]


def test_rows_are_written_to_both_files_and_everything_else_stays(project: Path) -> None:
    files = promote(project, {"members": {"tuned": MEMBER}, "variants": {"chosen": VARIANT}})
    assert files == [project / "params.yaml", project / "configs/mini.yaml"]
    for path in files:
        config = load_config(path)
        assert config.members["tuned"].model_dump(exclude_none=True) == MEMBER
        assert config.variants["chosen"].model_dump(mode="json", exclude_none=True) == VARIANT
        assert lines(path) == lines(PROJECT / "configs/mini.yaml")
    promote(project, {"members": {"tuned": MEMBER}, "variants": {"chosen": VARIANT}})
    assert lines(project / "params.yaml") == lines(PROJECT / "configs/mini.yaml")


@pytest.mark.parametrize("rows", [{"variants": {"chosen": VARIANT | {"weights": [0.5, 0.6]}}},
                                  {"members": {"tuned": MEMBER | {"epoch": 3}}}])  # fmt: skip
def test_an_invalid_row_changes_nothing(project: Path, rows: dict[str, Any]) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*.yaml")}
    with pytest.raises(ConfigError):
        promote(project, rows)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_one_invalid_file_leaves_both_as_they_were(project: Path) -> None:
    profile = project / "configs/mini.yaml"
    profile.write_text(profile.read_text().replace("  d1: {needs", "  d1: {need"))
    before = {path: path.read_bytes() for path in project.rglob("*.yaml")}
    with pytest.raises(ConfigError, match=r"mini\.yaml"):
        promote(project, {"members": {"tuned": MEMBER}})
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
