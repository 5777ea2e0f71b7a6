"""The numbers in README.md and docs are those of the committed runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from discriminator_guidance.evaluation.significance import student_interval

from .commands import PROJECT

NUMBER = r"[+−-]?\d+\.\d+"
TABLES = [("README.md", "digits"), ("docs/ensemble.md", "mini-seeds"), ("docs/results.md", "digits")]


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


def test_effects_are_those_of_the_committed_cube() -> None:
    text = (PROJECT / "docs" / "ensemble.md").read_text()
    cube = pd.read_csv(PROJECT / "reports" / "digits" / "study" / "factorial.csv").set_index(["members", "effect"])
    shown = [
        (6, "clipped logits", 1),
        (1, "clipped logits", 1),
        (6, "35 steps", 1),
        (6, "w2 = 0", 1),
        (6, "boosting", 2),
    ]
    for members, effect, digits in [*shown, (6, "clipped logits x 35 steps", 1)]:
        factor, low, high = cube.loc[(members, effect), ["factor", "low", "high"]].round(digits)
        assert f"{factor:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" in text, (members, effect)


@pytest.mark.parametrize(
    ("phrase", "keys"),
    [
        (r"held-out real images score (\S+) \((\S+) de-biased\)", ["holdout_fid", "holdout_fid_debiased"]),
        (r"a perfect generator would score (\S+)\.", ["floor"]),
    ],
)
def test_what_a_distance_is_held_against_is_that_of_the_committed_run(phrase: str, keys: list[str]) -> None:
    (found,) = re.findall(phrase, (PROJECT / "README.md").read_text())
    for text, key in zip([found] if isinstance(found, str) else found, keys, strict=True):
        assert float(text) == round(evaluated("digits", "edm")[key], 2)


def test_trainings_are_those_of_the_committed_run() -> None:
    text = (PROJECT / "docs" / "results.md").read_text()
    *first, last = [f"{value:.2f}" for value in evaluated("digits", "d0")["fid_values"]]
    assert f"{', '.join(first)} and {last}" in text


@pytest.mark.parametrize("variant", ["clip_table1", "d0_clip"])
def test_factors_of_brief_training_are_those_of_the_committed_run(variant: str) -> None:
    ours, theirs = (np.log(evaluated("mini-seeds", name)["fid_values"]) for name in (variant, "d0_table1"))
    factor, (low, high) = np.exp(np.mean(ours - theirs)), np.exp(student_interval((ours - theirs).tolist()))
    assert f"{factor:.1f} [{low:.1f}, {high:.1f}]" in (PROJECT / "docs" / "ensemble.md").read_text()
