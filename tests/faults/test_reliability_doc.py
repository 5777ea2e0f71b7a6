"""Every test that docs/reliability.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", (PROJECT / "docs" / "reliability.md").read_text())))


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_named_tests_exist(file: str) -> None:
    there = set(re.findall(r"def (test_\w+)\(", (PROJECT / "tests" / file).read_text()))
    assert {name for other, name in NAMED if other == file} <= there
