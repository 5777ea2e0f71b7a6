"""Study `factorial`: why the reproduction's ensemble scored FID 14.35, by sampling alone.

A cell is a rule, steps, w2, boosting, members and a training replicate; all cells share their noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
import torch
from matplotlib.ticker import LogLocator, NullLocator
from scipy import stats
from scipy.special import expit

from dguide import tracking
from dguide.settings import Config, Layout, Variant, plain
from dguide.settings.config import FactorialStudy
from dguide.studies.common import GuidedSamples, distance_inputs, distance_settings, note_of, write_chart
from dguide.studies.trials import GRID, Objective, StudyPlan, complete, draw_values, ended
from dguide.tracking import Tracker
from discriminator_guidance.core.files import read_npz, write_csv, write_json
from discriminator_guidance.core.noise import tau_from_sigma
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from discriminator_guidance.metrics.features import Doubles
from discriminator_guidance.metrics.significance import standard_error
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP

# What makes a cell: a set of members and how many of them, the first ones; levels; the number of a training replicate.
CELL = ("set", "rule", "members", "steps", "w2", "boosting", "seed")
RULES = ("mean_probability", "clipped_logit_mean")  # ours and the reproduction's
HIGH_NOISE = 0.5  # VP time above which most logits are in (0, 1)
EDGE = 1.001 * PROBABILITY_CLIP  # closer to 0 or 1 is pinned, up to the rounding of a log ratio
PUBLISHED = {"its report": 14.348 / 2.084, "its repository": 17.930 / 2.084}  # the reproduction's ensemble over its D0


def plan(config: Config, layout: Layout) -> StudyPlan:
    """The experiment; more replicates may be added to it."""
    section = config.studies.factorial
    members = sorted({name for names in section.sets.values() for name in names})
    settings = {"factorial": plain(section, "threads"), "seed": config.guided.seed}
    return StudyPlan(
        word="factorial",
        objective=f"FID ({config.fid_network.name}) of {section.images} samples",
        settings=settings | distance_settings(config),
        inputs=distance_inputs(layout.replicates(config.replicates), members),
        starts=planned_cells(config),
    )


def planned_cells(config: Config) -> dict[str, dict[str, Any]]:
    """The cells by name: the reproduction's w2 and boosting first, which answer the question, then other corners."""
    section = config.studies.factorial
    (first, members), *others = section.sets.items()
    steps, seeds = (*section.steps[::-1], *section.more_steps), range(config.replicates)
    corner = product([first], RULES[::-1], (len(members), 1), steps, section.w2[1:], section.boosting[1:], seeds)
    theirs = (section.steps[1], section.w2[1], section.boosting[1])
    added = [(name, RULES[1], len(names), *theirs, seed) for name, names in others for seed in seeds]
    cube = product([first], RULES[::-1], (len(members), 1), steps[:2], section.w2, section.boosting, seeds)
    return {" ".join(map(str, cell)): dict(zip(CELL, cell, strict=True)) for cell in (*corner, *added, *cube)}


def suggest(trial: optuna.Trial, config: Config) -> tuple[Variant, int]:
    """The variant by which the cell of an enqueued trial is sampled, and its training replicate."""
    section = config.studies.factorial
    sizes, steps = sorted({1, *map(len, section.sets.values())}), (*section.steps, *section.more_steps)
    levels: Any = ([*section.sets], RULES, sizes, steps, section.w2, section.boosting)
    cell = draw_values(trial, dict(zip(CELL, levels, strict=False)), choices=CELL)
    members = section.sets[cell.pop("set")][: cell.pop("members")]
    fixed = vars(config.sampler) | {"needs": "discriminator", "members": members, "weights": "equal", "w1": section.w1}
    return Variant(**fixed | cell), trial.suggest_int("seed", 0, config.replicates - 1)


def objective(config: Config, layout: Layout) -> Objective:
    """A trial samples a cell with the networks of its replicate."""
    replicates = [GuidedSamples(config, replicate) for replicate in layout.replicates(config.replicates)]
    section = config.studies.factorial
    span = replace(config.guided, images=section.images, seed_start=section.seed_start)

    def distance(trial: optuna.Trial, tracker: Tracker) -> float:
        variant, seed = suggest(trial, config)
        samples, clipped = replicates[seed], variant.rule == RULES[1]
        features, mistaken = list[np.ndarray](), list[np.ndarray]()
        for batch in samples.batches(variant, span, trajectory=clipped):
            features.append(batch["features"])
            if clipped:
                noisy = tau_from_sigma(torch.from_numpy(batch["sigma"][:-1])).numpy() > HIGH_NOISE
                mistaken.append(expit(batch["log_ratio"][noisy].astype(np.float64).ravel()))
        rows, reference = np.concatenate(features), samples.reference
        fid, influence = frechet_influence(rows, reference)
        values: dict[str, Any] = {"fid_debiased": debiased_distance(rows, reference)}
        values["standard_error"] = standard_error(influence)
        if clipped:
            values |= share_and_amplification(np.concatenate(mistaken))
        tracker.summary(values)
        for key, value in values.items():
            trial.set_user_attr(key, value)
        return fid

    return distance


def write_results(study: optuna.Study, config: Config, layout: Layout) -> dict[str, Any]:
    """Write reproduction.json and study/factorial* from the cells that are complete; returns how many those are."""
    section, note, frame = config.studies.factorial, note_of(config), cell_frame(study, config)
    if missing := len(planned_cells(config)) - len(frame):
        tracking.notice(f"{missing} cells are not complete: run the command again, unless they diverged")
    counts = {"cells": len(frame), "missing": missing, "replicates": config.replicates}
    facts = {"study": "factorial", "n_trials": len(ended(study)), **counts, "fid_network": config.fid_network.name}
    record = {**facts, **note, **plain(section, "threads"), "factors": factors(frame, section)}
    write_json(layout.report / "reproduction.json", frame.astype(object).where(frame.notna(), None).to_dict("records"))
    write_json(layout.study / "factorial.json", record)
    write_csv(layout.study / "factorial_mechanism.csv", mechanism(config, layout))
    if len(effects := effects_of_cells(frame, section)):
        write_csv(layout.study / "factorial.csv", effects.assign(**note))
    write_chart(_draw_steps(frame, config), layout.study / "factorial_steps.png", config)
    return counts


def cell_frame(study: optuna.Study, config: Config) -> pd.DataFrame:
    """The complete cells as planned; a ratio to one discriminator by probability needs distances above 0."""
    section, measured = config.studies.factorial, ("standard_error", "fid_debiased", "share_in_unit", "amplification")
    trials, rows = {trial.user_attrs[GRID]: trial for trial in complete(study)}, list[dict[str, Any]]()
    for trial in (trials[name] for name in planned_cells(config) if name in trials):
        values = {key: trial.user_attrs.get(key) for key in measured}
        rows.append({**trial.params, "n": section.images, "fid": trial.value, **values})
    frame = pd.DataFrame(rows).astype(dict.fromkeys(measured, float))
    positive = frame.assign(fid=frame["fid_debiased"].where(frame["fid_debiased"] > 0))
    single = (frame["set"] == next(iter(section.sets))) & (frame["rule"] == RULES[0]) & (frame["members"] == 1)
    levels = ["seed", "steps", "w2", "boosting"]
    divisor = frame[levels].join(positive[single].set_index(levels)["fid"], on=levels)["fid"]
    return frame.assign(ratio_to_d0=positive["fid"] / divisor)


def clipped_cells(frame: pd.DataFrame, section: FactorialStudy) -> pd.DataFrame:
    """The cells of the clipped rule at the reproduction's w2 and boosting that have a ratio, by steps."""
    theirs = (frame["rule"] == RULES[1]) & (frame["w2"] == section.w2[1]) & (frame["boosting"] == section.boosting[1])
    return frame[theirs].dropna(subset="ratio_to_d0").sort_values("steps")


def factors(frame: pd.DataFrame, section: FactorialStudy) -> list[dict[str, Any]]:
    """The clipped rule's geometric mean factor and its rank correlation with share x amplification, over replicates."""
    rows, groups = list[dict[str, Any]](), clipped_cells(frame, section).groupby(["set", "members", "steps"])
    for (name, members, steps), cells in groups:
        logs = np.log(cells["ratio_to_d0"])
        low, high = np.exp(stats.ttest_1samp(logs, 0).confidence_interval()) if len(logs) > 1 else (None, None)
        rank = (cells["share_in_unit"] * cells["amplification"].fillna(0)).corr(logs, method="spearman")
        interval = {"factor": math.exp(logs.mean()), "low": low, "high": high, "n": len(cells)}
        correlation = {"spearman": None if math.isnan(rank) else float(rank)}
        rows.append({"set": name, "members": members, "steps": steps} | interval | correlation)
    return rows


def effects_of_cells(frame: pd.DataFrame, section: FactorialStudy) -> pd.DataFrame:
    """The pooled effects for one discriminator and for all, over the replicates in which no corner is missing."""
    levels: dict[str, Any] = {"rule": RULES, "steps": section.steps, "w2": section.w2, "boosting": section.boosting}
    names = ["clipped logits", f"{section.steps[1]} steps", f"w2 = {section.w2[1]:g}", "boosting"]
    cube, tables = frame[(frame["set"] == next(iter(section.sets))) & (frame["fid_debiased"] > 0)], []
    for members, cells in cube.groupby("members"):
        corners = cells.pivot(index="seed", columns=[*levels], values="fid_debiased")
        whole = corners.reindex(columns=pd.MultiIndex.from_product([*levels.values()])).dropna()
        if len(whole):
            effects = pooled_effects(names, np.log(whole.to_numpy()))
            effects.insert(0, "members", members)
            tables.append(effects.assign(replicates=len(whole)))
    return pd.concat(tables) if tables else pd.DataFrame()


def pooled_effects(names: Sequence[str], response: np.ndarray) -> pd.DataFrame:
    """Main effects and two-factor interactions of a cube, as factors exp(effect) with 95 % intervals.

    response: (B, 2^F) logarithms, a row for each block, the last factor's level alternating. An effect is the mean at
    the second level minus that at the first, an interaction that of the product (Box, Hunter & Hunter 2005, Chapter 5).
    `low` and `high` pool the error of least squares; `seeds_low` and `seeds_high` are Student's t over blocks.
    """
    terms = [*combinations(range(len(names)), 1), *combinations(range(len(names)), 2)]
    levels = np.array([*product((-1, 1), repeat=len(names))])
    columns = np.stack([levels[:, term].prod(axis=1) for term in terms], axis=1)
    single = 2 * (response @ columns) / len(levels)  # the columns of a cube are orthogonal
    effects = single.mean(axis=0)
    left = response - response.mean(axis=1, keepdims=True) - columns @ effects / 2
    freedom = response.size - len(response) - len(terms)
    half = stats.t.ppf(0.975, freedom) * 2 * math.sqrt(np.sum(left**2) / freedom / response.size)
    blocks = stats.t.ppf(0.975, len(response) - 1) * stats.sem(single) if len(response) > 1 else math.nan
    shifts = {"factor": 0.0, "low": -half, "high": half, "seeds_low": -blocks, "seeds_high": blocks}
    words = [" x ".join(names[i] for i in term) for term in terms]
    return pd.DataFrame({"effect": words} | {key: np.exp(effects + shift) for key, shift in shifts.items()})


def mechanism(config: Config, layout: Layout) -> list[dict[str, Any]]:
    """The mean logit of the first member and of all on test images: a row for each replicate, set and noise level."""
    rows, replicates = list[dict[str, Any]](), enumerate(layout.replicates(config.replicates))
    for (seed, replicate), (name, members) in product(replicates, config.studies.factorial.sets.items()):
        paths = [replicate.discriminator(member) / "test_logits.npz" for member in members]
        tested = [read_npz(path, ["logits", "time"], "discriminator") for path in paths]
        logits, times = np.stack([arrays["logits"] for arrays in tested]).astype(np.float64), tested[0]["time"]
        for count, time in product((1, len(members)), np.unique(times)):
            mean = logits[:count, times == time].mean(axis=0)
            keys = {"set": name, "seed": seed, "members": count, "time": float(time), "n": len(mean)}
            moments = {"mean": float(mean.mean()), "standard_deviation": float(mean.std(ddof=1))}
            rows.append(keys | moments | share_and_amplification(mean))
    return rows


def share_and_amplification(mistaken: Doubles) -> dict[str, float | None]:
    """The share of "probabilities" p that the clipped rule does not pin; the mean 1 / (p (1 - p)) of those, if any."""
    free = mistaken[(mistaken > EDGE) & (mistaken < 1 - EDGE)]
    amplification = float(np.mean(1 / (free * (1 - free)))) if free.size else None
    return {"share_in_unit": free.size / mistaken.size, "amplification": amplification}


def _draw_steps(frame: pd.DataFrame, config: Config) -> Any:
    section, (_, axes) = config.studies.factorial, plt.subplots(figsize=(8.6, 4.4), layout="constrained")
    shown = clipped_cells(frame[frame["set"] == next(iter(section.sets))], section)
    lines: Any = shown.groupby(["seed", "members"])
    for (seed, members), line in lines:
        style: dict[str, Any] = {"linestyle": "--"} if members == 1 else {"label": f"training seed {seed}"}
        axes.plot(line["steps"], line["ratio_to_d0"], marker="o", color=f"C{seed % 10}", **style)
    for (source, ratio), dots in zip(PUBLISHED.items(), (":", "-."), strict=True):
        axes.axhline(ratio, color="grey", linewidth=1, linestyle=dots, label=f"{ratio:.1f}: the reproduction, {source}")
    distance = f"FID ({config.fid_network.name}), de-biased, over that of\none discriminator by its probability"
    title = f"Clipped raw logits: all members solid, one dashed; N = {section.images}"
    axes.set(yscale="log", xlabel="sampling steps", ylabel=distance, title=title, xticks=sorted(set(shown["steps"])))
    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return axes
