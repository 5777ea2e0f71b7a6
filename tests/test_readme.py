"""The numbers in README.md and docs are those of the committed runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .commands import PROJECT

NUMBER = r"[+−-]?\d+\.\d+"
TABLES = [("README.md", "digits"), ("docs/ensemble.md", "mini"), ("docs/results.md", "digits")]


def rows(page: str, marker: str) -> dict[str, list[str]]:
    """The cells of the table between two markers, by variant."""
    text = (PROJECT / page).read_text()
    block = text.split(f"<!-- {marker}:")[1].split(f"<!-- end of {marker}")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    return {cells[0].strip("`"): cells[1:] for cells in lines if cells[0].startswith("`")}


def evaluated(profile: str, variant: str) -> dict[str, Any]:
    report = PROJECT / "reports" / profile
    files = [report / folder / f"{variant}.json" for folder in ("evaluation", "details")]
    found: dict[str, Any] = {key: value for path in files for key, value in json.loads(Path(path).read_text()).items()}
    return found


@pytest.mark.parametrize(("page", "profile", "variant"), [(*table, row) for table in TABLES for row in rows(*table)])
def test_results_are_those_of_the_committed_run(page: str, profile: str, variant: str) -> None:
    found, cells = evaluated(profile, variant), rows(page, profile)[variant]
    values = [found["fid"], found["fid_low"], found["fid_high"]]
    delta = [] if variant == "edm" else [found["delta_fid"], found["delta_low"], found["delta_high"]]
    values += [*delta, found["kid_all"], *found["kid_ci95"]]
    if delta and len(cells) > 4:
        values += [found["delta_kid"], *found["delta_kid_ci95"]]
    shown = re.findall(NUMBER, " ".join(cells[1:]))
    assert len(shown) == len(values)
    for value, text in zip(values, shown, strict=True):
        assert float(text.replace("−", "-")) == round(value, len(text.partition(".")[2])), text


def test_the_figure_of_the_docs_is_that_of_the_committed_study() -> None:
    study = PROJECT / "reports" / "digits" / "study" / "factorial_steps.png"
    assert (PROJECT / "docs" / "images" / "factor.png").read_bytes() == study.read_bytes()


def test_factors_are_those_of_the_committed_study() -> None:
    text = (PROJECT / "docs" / "ensemble.md").read_text()
    study = json.loads((PROJECT / "reports" / "digits" / "study" / "factorial.json").read_text())
    for factor in study["factors"]:
        shown = f"{factor['factor']:.1f} [{factor['low']:.1f}, {factor['high']:.1f}]"
        assert shown in text, (factor["set"], factor["members"], factor["steps"])
