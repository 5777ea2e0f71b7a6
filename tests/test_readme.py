"""The numbers in README.md and docs are those of the committed runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from .commands import PROJECT

REPORTS, PROFILES = PROJECT / "reports", ("mini", "mini-seeds", "digits", "cifar10-small")
NUMBER = r"[+−-]?\d+\.\d+"
TABLES = [("README.md", "digits"), ("docs/ensemble.md", "mini-seeds"), ("docs/results.md", "digits")]


def rows(page: str, marker: str) -> dict[str, list[str]]:
    """The cells of the table between two markers, by variant."""
    text = (PROJECT / page).read_text()
    block = text.split(f"<!-- {marker}:")[1].split(f"<!-- end of {marker}")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    return {cells[0].strip("`"): cells[1:] for cells in lines if cells[0].startswith("`")}


def evaluated(profile: str, variant: str) -> dict[str, Any]:
    files = [REPORTS / profile / folder / f"{variant}.json" for folder in ("evaluation", "details")]
    return {key: value for path in files for key, value in json.loads(path.read_text()).items()}


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
    figure = (REPORTS / "digits/study/factorial_steps.png").read_bytes()
    assert (PROJECT / "docs/images/factor.png").read_bytes() == figure


def intervals() -> Iterator[tuple[float, float, float]]:
    """Every value with its interval in the committed reports."""
    sampling = {"fid": "fid_ci95_sampling", "delta_fid": "delta_ci95_sampling"}
    for path in REPORTS.glob("*/tables/differences.csv"):
        yield from pd.read_csv(path)[["difference", "low", "high"]].itertuples(index=False, name=None)
    for profile, path in [(name, path) for name in PROFILES for path in (REPORTS / name / "details").iterdir()]:
        found = evaluated(profile, path.stem)
        yield found["fid"], found["fid_low"], found["fid_high"]
        for value, ends in {**sampling, "kid_all": "kid_ci95", "delta_kid": "delta_kid_ci95"}.items():
            yield found[value], *found[ends]
    for path in REPORTS.glob("*/study/factorial.csv"):
        yield from pd.read_csv(path)[["factor", "low", "high"]].itertuples(index=False, name=None)
        for row in json.loads(path.with_suffix(".json").read_text())["factors"]:
            yield row["factor"], row["low"], row["high"]
    rejected = json.loads((REPORTS / "digits/rejection.json").read_text())
    yield from ((rejected[f"delta_{name}_vs_edm"], *rejected[f"delta_{name}_ci95"]) for name in ("fid", "kid"))
    for variant in ("prob_table1", "clip_table1", "d0_clip"):  # the ratio to one discriminator, over seeds
        ours, theirs = (np.log(evaluated("mini-seeds", name)["fid_values"]) for name in (variant, "d0_table1"))
        logs = ours - theirs
        yield tuple(np.exp([np.mean(logs), *stats.ttest_1samp(logs, 0).confidence_interval()]))


def test_intervals_in_the_text_are_those_of_the_committed_runs() -> None:
    known = set[tuple[str, ...]]()
    for triple in intervals():
        known |= {tuple(f"{value:.{digits}f}" for value in triple) for digits in (0, 1, 2, 3, 4)}
    interval = r"([+-]?[\d.]+)\s\[([+-]?[\d.]+), ([+-]?[\d.]+)\]"
    families = re.findall(interval, (REPORTS / "mini-families/tables/table4.csv").read_text())
    known |= {tuple(number.lstrip("+") for number in shown) for shown in families}
    for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        found = re.findall(interval, page.read_text())
        unknown = [shown for shown in found if tuple(number.lstrip("+") for number in shown) not in known]
        assert unknown == [], page.name


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


def words(page: str) -> str:
    return " ".join((PROJECT / "docs" / page).read_text().split())


def test_the_mechanism_is_that_of_the_committed_study() -> None:
    frame = pd.read_csv(REPORTS / "digits/study/factorial_mechanism.csv")
    part = frame[(frame["set"] == "fresh") & (frame["members"] == 6) & (frame["time"] > 0.5)].groupby("time")
    mean, slopes = part.mean(numeric_only=True), part["platt_slope"].agg(["min", "max"])
    rows = {
        "standard deviation": [f"{value:.3f}" for value in mean["standard_deviation"]],
        "Platt slope (1: calibrated), range over seeds": [f"{low:.0f} to {high:.0f}" for low, high in slopes.values],
        "images with a logit in (0, 1)": [f"{100 * value:.0f} %" for value in mean["share_in_unit"]],
        "mean factor of their gradients": [f"{value:.0f}" for value in mean["amplification"]],
    }
    for name, cells in rows.items():
        assert " | ".join([f"| {name}", *cells]) in words("ensemble.md")


def test_rank_correlations_are_those_of_the_committed_studies() -> None:
    def rank(profile: str, name: str, members: int) -> str:
        rows = json.loads((REPORTS / profile / "study/factorial.json").read_text())["factors"]
        (found,) = (row for row in rows if (row["set"], row["members"], row["steps"]) == (name, members, 35))
        return f"{found['spearman']:.1f}"

    expected = [
        f"correlation of {rank('digits', 'fresh', 6)} with",
        f"{rank('digits', 'fresh', 1)} for one member, {rank('digits', 'reproduction', 6)} for sequential",
        f"{rank('digits', 'overfitted', 6)} for overfitted members",
        f"networks {rank('mini-seeds', 'fresh', 6)} for six and {rank('mini-seeds', 'fresh', 1)} for one",
    ]
    assert [phrase for phrase in expected if phrase not in words("ensemble.md")] == []


def test_losses_of_heads_are_those_of_the_committed_run() -> None:
    shown = words("results.md").partition("Mean test cross-entropies: ")[2]
    names = ("d0", "d0_ema", "d0_best", "d0_shifted", "permuted")
    for name, text in zip(names, re.findall(r"\d\.\d+", shown), strict=False):
        files = (REPORTS / "digits/discriminator" / name).glob("r*/metrics.json")
        losses = [json.loads(path.read_text())["test_loss"] for path in files]
        assert text == f"{np.mean(losses):.3f}"
