"""A project folder with settings alone, for studies that need no networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.conftest import made, tiny, tiny_settings, write_params

__all__ = ["made", "tiny"]


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow, unless a test asks for it."""
    monkeypatch.setenv("DGUIDE_TRACKING", "off")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with params.yaml."""
    write_params(tmp_path, tiny_settings())
    return tmp_path
