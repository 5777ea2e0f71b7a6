"""The output of study `factorial`: cells, pooled effects, factors and their predictors, the mechanism, a chart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, product
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from scipy import stats
from scipy.special import expit

from dguide import tracking
from dguide.artifacts import Layout
from dguide.settings import Config
from dguide.settings.sections import FactorialStudy
from dguide.studies.factorial import RULES, WORD, Cell, share_and_amplification
from dguide.studies.record import draw
from dguide.studies.trials import ended
from discriminator_guidance.files import read_npz, write_csv, write_json
from discriminator_guidance.metrics.features import Floats
from discriminator_guidance.metrics.significance import standard_error

Row = dict[str, Any]
PUBLISHED = {"its report": 14.348 / 2.084, "its repository": 17.930 / 2.084}  # the reproduction's ensemble over its D0

NEWTON_STEPS, RIDGE = 25, 1e-3  # the ridge is that of one image in a thousand; it keeps separable classes finite


def write_results(study: optuna.Study, cells: Sequence[Cell], config: Config, layout: Layout) -> Row:
    """Write reproduction.json and study/factorial* from the cells that are complete; returns how many those are."""
    section, note = config.studies.factorial, {"note": config.real.note} if config.real.note else {}
    trials = {Cell(**t.params): t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    done = {cell: trials[cell] for cell in cells if cell in trials}
    if missing := [cell for cell in cells if cell not in done]:
        what = f"{len(missing)} cells are not complete, the first is {missing[0]}"
        tracking.notice(f"{what}: run the command again, unless they diverged")
    counts = {"cells": len(done), "missing": len(missing), "replicates": config.replicates}
    if not done:
        return counts
    frame = cell_frame(done, section)
    facts = {"study": WORD, "n_trials": len(ended(study)), **counts, "fid_network": config.fid_network.name, **note}
    settings = section.model_dump(mode="json", exclude={"threads"})
    write_json(layout.report / "reproduction.json", frame.astype(object).where(frame.notna(), None).to_dict("records"))
    write_json(layout.study / f"{WORD}.json", {**facts, **settings, "factors": factors(frame, section)})
    write_csv(layout.study / f"{WORD}_mechanism.csv", [*mechanism_rows(config, layout.replicates(config.replicates))])
    if effects := effect_rows(frame, section):
        write_csv(layout.study / f"{WORD}.csv", [row | note for row in effects])
    draw(lambda: _draw_steps(frame, config), layout.study / f"{WORD}_steps.png", config)
    return counts


def cell_frame(done: Mapping[Cell, FrozenTrial], section: FactorialStudy) -> pd.DataFrame:
    """A row for each cell; its ratio is to one discriminator by probability, NaN where a distance is not above 0."""
    measured = ("fid_debiased", "share_in_unit", "amplification")
    rows = []
    for cell, trial in done.items():
        found = {key: trial.user_attrs.get(key) for key in measured}
        error = standard_error(np.array(trial.user_attrs["influence"]))
        rows.append({**asdict(cell), "n": section.images, "fid": trial.value, "standard_error": error, **found})
    frame = pd.DataFrame(rows).astype(dict.fromkeys(measured, float))
    positive = frame.assign(one=frame["fid_debiased"].where(frame["fid_debiased"] > 0))
    single = (frame["set"] == next(iter(section.sets))) & (frame["rule"] == RULES[0]) & (frame["members"] == 1)
    at = ["seed", "steps", "w2", "boosting"]
    one = frame[at].join(positive[single].set_index(at)["one"], on=at)["one"]
    return frame.assign(ratio_to_d0=positive["one"] / one)


def factors(frame: pd.DataFrame, section: FactorialStudy) -> list[Row]:
    """The factor of the clipped rule at the reproduction's w2 and boosting, a geometric mean over replicates.

    `spearman` is the rank correlation over replicates of the factor with share_in_unit x amplification, the mean
    amplification of all samples.
    """
    found, keys = list[Any](), ["set", "members", "steps"]
    for _, part in _clipped(frame, section).groupby(keys):
        logs = np.log(part["ratio_to_d0"])
        interval = stats.ttest_1samp(logs, 0).confidence_interval() if len(logs) > 1 else ()  # 95 %, Student's t
        low, high = map(math.exp, interval) if interval else (None, None)
        factor = {"factor": math.exp(logs.mean()), "low": low, "high": high, "n": len(part)}
        rank = (part["share_in_unit"] * part["amplification"].fillna(0)).corr(logs, method="spearman")
        predicted = None if math.isnan(rank) else float(rank)
        found.append(part[keys].to_dict("records")[0] | factor | {"spearman": predicted})
    return found


def effect_rows(frame: pd.DataFrame, section: FactorialStudy) -> list[Row]:
    """The pooled effects for one discriminator and for all, over the replicates in which no corner is missing."""
    crossed, levels = ["rule", "steps", "w2", "boosting"], (RULES, section.steps, section.w2, section.boosting)
    names = ["clipped logits", f"{section.steps[1]} steps", f"w2 = {section.w2[1]:g}", "boosting"]
    cube = frame[(frame["set"] == next(iter(section.sets))) & (frame["fid_debiased"] > 0)]
    signs, found = np.array([*product((-1, 1), repeat=len(levels))]), []
    for members, part in cube.groupby("members"):
        wide = part.pivot(index="seed", columns=crossed, values="fid_debiased")
        complete = wide.reindex(columns=pd.MultiIndex.from_product(levels)).dropna()
        if len(complete):
            effects = pooled_effects(names, signs, np.log(complete.to_numpy()))
            found += [{"members": members, **row, "replicates": len(complete)} for row in effects]
    return found


def pooled_effects(names: Sequence[str], levels: np.ndarray, response: np.ndarray) -> list[Row]:
    """Main effects and two-factor interactions of a cube, as factors exp(effect) with 95 % intervals.

    levels: (R, F) of -1 and +1; response: (B, R), logarithms, a row for each block. Least squares with the blocks'
    means. The error of `low` and `high` is pooled over all that is left: an interval of these blocks. `seeds_low` and
    `seeds_high` are Student's t over the effects of single blocks: an interval of all blocks, NaN for one. An effect is
    the mean at +1 minus that at -1, an interaction the same of the product of the levels (Box, Hunter & Hunter 2005,
    Chapter 5).
    """
    terms = [*combinations(range(len(names)), 1), *combinations(range(len(names)), 2)]
    columns = np.stack([levels[:, term].prod(axis=1) for term in terms], axis=1)
    single = 2 * (response @ columns) / len(levels)  # the columns of a cube are orthogonal
    effects = single.mean(axis=0)
    left = response - response.mean(axis=1, keepdims=True) - columns @ effects / 2
    freedom = response.size - len(response) - len(terms)
    half = stats.t.ppf(0.975, freedom) * 2 * math.sqrt(np.sum(left**2) / freedom / response.size)
    blocks = stats.t.ppf(0.975, len(response) - 1) * stats.sem(single) if len(response) > 1 else math.nan
    words = (" x ".join(names[i] for i in term) for term in terms)
    values = np.exp([effects, effects - half, effects + half, effects - blocks, effects + blocks]).T
    keys = ("factor", "low", "high", "seeds_low", "seeds_high")
    return [{"effect": word, **dict(zip(keys, row, strict=True))} for word, row in zip(words, values, strict=True)]


def platt_slope(logits: Floats, labels: Floats) -> tuple[float, float]:
    """The slope of a logistic regression of (n,) labels on logits, and its standard error (Platt 1999).

    1 for calibrated logits, 0 for logits without information.
    """
    spread = logits.std()
    design = np.stack([np.ones(len(logits)), (logits - logits.mean()) / spread], axis=1)
    coefficients = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        probability = expit(design @ coefficients)
        information = (design.T * probability * (1 - probability)) @ design + RIDGE * np.eye(2)
        coefficients += np.linalg.solve(information, design.T @ (labels - probability) - RIDGE * coefficients)
    return float(coefficients[1] / spread), float(np.sqrt(np.linalg.inv(information)[1, 1]) / spread)


def mechanism_rows(config: Config, layouts: Sequence[Layout]) -> Iterator[Row]:
    """The mean logit of the first member and of all on test images: a row for each replicate, set and noise level."""
    for (seed, layout), (name, members) in product(enumerate(layouts), config.studies.factorial.sets.items()):
        paths = [layout.discriminator(member) / "test_logits.npz" for member in members]
        tested = [read_npz(path, ["logits", "labels", "time"], "discriminator") for path in paths]
        labels, times = tested[0]["labels"], tested[0]["time"]
        for count, time in product((1, len(members)), np.unique(times)):
            logits = np.stack([one["logits"][times == time] for one in tested[:count]]).astype(np.float64).mean(axis=0)
            slope, error = platt_slope(logits, labels[times == time])
            where = {"set": name, "seed": seed, "members": count, "time": float(time), "n": len(logits)}
            moments = {"mean": float(logits.mean()), "standard_deviation": float(logits.std(ddof=1))}
            found = {"platt_slope": slope, "slope_error": error, **share_and_amplification(logits)}
            yield where | moments | found


def _clipped(frame: pd.DataFrame, section: FactorialStudy) -> pd.DataFrame:
    theirs = (frame["w2"] == section.w2[1]) & (frame["boosting"] == section.boosting[1])
    return frame[theirs & (frame["rule"] == RULES[1])].dropna(subset="ratio_to_d0").sort_values("steps")


def _draw_steps(frame: pd.DataFrame, config: Config) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    section, (_, axes) = config.studies.factorial, plt.subplots(figsize=(8.6, 4.4), layout="constrained")
    shown = _clipped(frame, section)
    shown = shown[shown["set"] == next(iter(section.sets))]
    for seed, members in product(range(config.replicates), sorted(set(shown["members"]))):
        line = shown[(shown["seed"] == seed) & (shown["members"] == members)]
        style: Row = {"linestyle": "--"} if members == 1 else {"label": f"training seed {seed}"}
        axes.plot(line["steps"], line["ratio_to_d0"], marker="o", color=f"C{seed % 10}", **style)
    for (source, ratio), dots in zip(PUBLISHED.items(), (":", "-."), strict=True):
        axes.axhline(ratio, color="grey", linewidth=1, linestyle=dots, label=f"{ratio:.1f}: the reproduction, {source}")
    distance = f"FID ({config.fid_network.name}), de-biased, over that of\none discriminator by its probability"
    title = f"Clipped raw logits: all members solid, one dashed; N = {section.images}"
    axes.set(yscale="log", xlabel="sampling steps", ylabel=distance, title=title, xticks=sorted(set(shown["steps"])))
    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return axes
