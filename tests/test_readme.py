"""The numbers in README.md and docs are those of the committed runs."""

import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from .commands import PROJECT

REPORTS = PROJECT / "reports"
INTERVAL = r"([+-]?[\d.]+)\s\[([+-]?[\d.]+), ([+-]?[\d.]+)\]"


def rows(page: str) -> dict[str, list[str]]:
    """The cells of the table of profile `digits` between its two markers, by variant."""
    block = (PROJECT / page).read_text().split("<!-- digits:")[1].split("<!-- end of digits")[0]
    lines = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return {name: cells for name, *cells in lines if (REPORTS / "digits/details" / f"{name}.json").is_file()}


def evaluated(profile: str, variant: str) -> dict[str, Any]:
    files = [REPORTS / profile / folder / f"{variant}.json" for folder in ("evaluation", "details")]
    return {key: value for path in files for key, value in json.loads(path.read_text()).items()}


@pytest.mark.parametrize(
    ("page", "variant"), [(page, variant) for page in ("README.md", "docs/results.md") for variant in rows(page)]
)
def test_results_are_those_of_the_committed_run(page: str, variant: str) -> None:
    record = evaluated("digits", variant)
    record |= {"fid_ci95": (record["fid_low"], record["fid_high"])}
    record |= {"delta_fid_ci95": (record["delta_low"], record["delta_high"])}
    for cell, name in zip(rows(page)[variant][1:], ("fid", "delta_fid", "kid", "delta_kid"), strict=True):
        values = (1000 if "kid" in name else 1) * np.array([record[name], *record[f"{name}_ci95"]])
        numbers = re.findall(r"[+-]?\d+\.\d+", cell.replace("−", "-"))
        assert numbers or variant == "edm"
        for number, value in zip(numbers, values, strict=bool(numbers)):
            assert float(number) == round(value, len(number.partition(".")[2]))


def test_the_figure_of_the_docs_is_that_of_the_committed_study() -> None:
    figure = (REPORTS / "digits/study/factorial_steps.png").read_bytes()
    assert (PROJECT / "docs/images/factor.png").read_bytes() == figure


def intervals() -> Iterator[tuple[float, ...]]:
    """Every value with its interval in the committed reports."""
    for path in REPORTS.glob("*/details/differences.csv"):
        yield from pd.read_csv(path)[["difference", "low", "high"]].itertuples(index=False, name=None)
    for path in REPORTS.glob("*/details/*.json"):
        record = evaluated(path.parts[-3], path.stem)
        yield record["fid"], record["fid_low"], record["fid_high"]
        for key in filter(lambda key: key.endswith("_ci95"), record):
            values = np.array([record[key.removesuffix("_ci95")], *record[key]])
            yield from (values, 1000 * values)
    for path in REPORTS.glob("*/study/factorial.json"):
        yield from pd.DataFrame(json.loads(path.read_text())["factors"])[["factor", "low", "high"]].to_numpy()
    for path in REPORTS.glob("*/study/factorial.csv"):
        yield from pd.read_csv(path)[["factor", "low", "high"]].to_numpy()
    for member in ("d0", "d0_ema", "d0_best", "d0_shifted", "permuted"):
        files = REPORTS.glob(f"digits/discriminator/{member}/r*/metrics.json")
        yield over_seeds([json.loads(path.read_text())["test_loss"] for path in files])
    yield from factorial_intervals()
    cells = json.loads((PROJECT / "notebooks" / "your_model.ipynb").read_text())["cells"]
    lines = [line for cell in cells for output in cell.get("outputs", ()) for line in output.get("text", ())]
    yield from (tuple(map(float, found)) for found in re.findall(INTERVAL, "".join(lines)))


def over_seeds(values: Any) -> tuple[float, ...]:
    """A mean over training seeds and its interval."""
    return np.mean(values), *stats.ttest_1samp(values, 0).confidence_interval()


def factorial_intervals() -> Iterator[tuple[float, ...]]:
    """Effects of boosting at the reproduction's settings, and of the other settings with its rule, as factors."""
    factors = ["rule", "steps", "w2", "boosting"]
    cells = pd.read_json(REPORTS / "digits/reproduction.json").query("set == 'fresh' and steps in (12, 35)")
    for _, part in cells.groupby("members"):
        logs = np.log(part.pivot(index="seed", columns=factors, values="fid_debiased"))
        for rule, steps in product(("clipped_logit_mean", "mean_probability"), (12, 35)):
            yield np.exp(over_seeds(logs[rule, steps, 0.0, True] - logs[rule, steps, 0.0, False]))
        for factor in factors[1:]:
            levels = logs["clipped_logit_mean"].T.groupby(factor).mean()
            yield from (np.exp(over_seeds(sign * (levels.iloc[-1] - levels.iloc[0]))) for sign in (1, -1))


def test_intervals_in_the_text_are_those_of_the_committed_runs() -> None:
    known = set[tuple[str, ...]]()
    for triple in intervals():
        known |= {tuple(f"{round(value, digits) + 0.0:.{digits}f}" for value in triple) for digits in (0, 1, 2, 3, 4)}
    for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        shown = {tuple(number.lstrip("+") for number in found) for found in re.findall(INTERVAL, page.read_text())}
        assert shown <= known, page.name


def span(values: Any, digits: int = 2) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def about_digits() -> Iterator[str]:
    """Phrases of README.md and docs/results.md on profile `digits`."""
    folder = REPORTS / "digits"
    table = pd.read_csv(folder / "tables/table3.csv", index_col="variant", na_values="–")
    adjusted = {name: f"adjusted p = {p:.2f}" for name, p in table["ours: adjusted p"].dropna().items()}
    ours = {name: evaluated("digits", name) for name in rows("docs/results.md")}
    edm, fit = ours["edm"], ours["e_fit"]
    plain, without = ours["d0"]["fid_values"], edm["fid_values"]
    yield f"FIDs of {', '.join(f'{value:.2f}' for value in plain[:4])} and {plain[4]:.2f}, against {span(without)} "
    worse = [plain[seed] / without[seed] for seed in range(5) if plain[seed] > without[seed]]
    assert worse == pytest.approx([1.5], abs=0.05), "one of five rose by half"
    both = edm["holdout_fid_debiased"], edm["fid_debiased"]
    yield "{} real images; the FID grows as N falls (de-biased: {:.2f}, `edm`: {:.2f})".format(edm["holdout_n"], *both)
    yield f"lowers the FID by {-100 * fit['delta_fid'] / edm['fid']:.0f} % (p = {fit['delta_p']:.3f}) and the KID"
    yield f"(`d0_ema_fit`, {adjusted['d0_ema_fit']})"
    yield f"which has a larger mean than no guidance ({adjusted['permuted']})"
    completed = (pd.read_csv(folder / "study/ensemble.csv")["state"] == "complete").sum()
    yield f"({completed} completed all five trainings)"
    for against, expected in {"delta_kid": [], "delta_kid_holdout": ["auto", "churn", "long", "nfe"]}.items():
        opposed = sorted(name for name, one in ours.items() if one["delta_fid"] * one[against] < 0)
        assert opposed == [f"edm_{name}" for name in expected], "where FID and KID disagree in sign"
    yield f"recall is {ours['edm_auto']['recall']:.2f}, not {edm['recall']:.2f}"
    losses = json.loads((folder / "score_validation.json").read_text())
    mean, used = np.mean(losses["holdout_loss"], axis=0), losses["iterations"].index(6000)
    five = pd.Series(*(losses["of_five_replicates"][key] for key in ("holdout_loss", "iterations")))
    yield f"is smallest near {five.idxmin():,}, {100 * (1 - five.min() / five[6000]):.1f} % lower"
    yield f"held-out loss is then {100 * (five[6000] / five.min() - 1):.1f} % above the minimum"
    yield f"it then rises by {100 * (mean[-1] / mean.min() - 1):.0f} %"
    unbiased = np.mean([values[1:] for values in losses["fid_debiased"]], axis=0)
    yield "falling, from {:.2f} to {:.2f} (held-out images: {:.2f})".format(*unbiased[[used - 1, -1]], both[0])
    yield f"{json.loads((folder / 'study/ensemble.json').read_text())['n_trials']} Optuna trials of weights"


def about_the_cause() -> Iterator[str]:
    """Phrases of docs/ensemble.md on the factorial."""
    cells = pd.read_json(REPORTS / "digits/reproduction.json")
    cells = cells.query("set == 'fresh' and steps == 35 and w2 == 0 and boosting == 1").set_index(["rule", "members"])
    alone = [span(cells.loc[("mean_probability", count), "fid_debiased"]) for count in (6, 1)]
    yield "the de-biased FID is {}; with one discriminator, it is {}.".format(*alone)
    clipped = cells.loc["clipped_logit_mean"]
    yield f"The factor of a single seed is {span(clipped.loc[6, 'ratio_to_d0'], 0)} for six at 35 steps"
    deviations = np.log(cells["fid_debiased"]).groupby(level=[0, 1]).std()
    six, single = (deviations["clipped_logit_mean", count] for count in (6, 1))
    plain = deviations["mean_probability", 1]
    yield f"of its logarithm: {six:.1f} for six and {single:.1f} for one; of that of D0 by probability: {plain:.1f})"
    files = ((REPORTS / "digits/discriminator").glob(f"o{number}/r*/metrics.json") for number in range(6))
    losses = [np.mean([json.loads(path.read_text())["validation_loss"] for path in each]) for each in files]
    yield f"mean validation cross-entropy {span(losses, 1)} "
    yield f"its members have {span([evaluated('mini', f'd{n}')['fid'] for n in range(6)])} (one training seed"


@pytest.mark.parametrize("phrase", [*about_digits(), *about_the_cause()])
def test_numbers_in_the_text_are_those_of_the_committed_runs(phrase: str) -> None:
    pages = ("README.md", "docs/results.md", "docs/ensemble.md")
    assert phrase in " ".join(" ".join((PROJECT / page).read_text().split()) for page in pages)
