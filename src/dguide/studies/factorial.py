"""Study `factorial`: why the reproduction's ensemble scored FID 14.35, by sampling alone.

A cell is a rule, members, steps, a training replicate, and perhaps a change of the reproduction's other settings; all
cells share their noise. For those of the clipped rule the displacement is computed, which should predict their FID.
"""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator
from scipy import stats

from dguide import tracking
from dguide.settings import Config, Layout, Variant, plain
from dguide.stages.guided import open_networks
from dguide.studies.displacement import variant_displacement
from dguide.studies.study import GRID, GuidedSamples, Objective, StudyPlan, complete, write_chart
from dguide.tracking import Tracker
from discriminator_guidance.core.files import write_json
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from discriminator_guidance.metrics.significance import standard_error

# What makes a cell: a set of members and how many of them, the first ones; levels; the number of a training replicate.
CELL = ("set", "rule", "members", "steps", "change", "seed")
NO_CHANGE = "none"
RULES = ("mean_probability", "clipped_logit_mean")  # ours and the reproduction's
MEASURED = ("standard_error", "fid_debiased", "displacement")  # of a cell, beside its FID


def plan(config: Config) -> StudyPlan:
    """The cells: both rules for one member and for all at each number of steps; then other sets, then changes."""
    section, seeds = config.studies.factorial, range(config.replicates)
    (first, members), *others = section.sets.items()
    sizes, theirs = (len(members), 1), section.steps[0]
    cells = [*product([first], RULES[::-1], sizes, section.steps, [NO_CHANGE], seeds)]
    cells += [(name, RULES[1], len(names), theirs, NO_CHANGE, seed) for name, names in others for seed in seeds]
    cells += product([first], RULES[1:], sizes, [theirs], section.changes, seeds)
    starts = {" ".join(map(str, cell)): dict(zip(CELL, cell, strict=True)) for cell in cells}
    return StudyPlan("factorial", f"FID ({config.fid_network.name}) of {section.images} samples", starts)


def suggest(trial: optuna.Trial, config: Config) -> tuple[Variant, int]:
    """The variant by which the cell of an enqueued trial is sampled, and its training replicate."""
    section = config.studies.factorial
    sizes, changes = sorted({1, *map(len, section.sets.values())}), [NO_CHANGE, *section.changes]
    levels: Any = ([*section.sets], RULES, sizes, section.steps, changes, range(config.replicates))
    cell: Any = {key: trial.suggest_categorical(key, [*values]) for key, values in zip(CELL, levels, strict=True)}
    members, change, seed = section.sets[cell.pop("set")][: cell.pop("members")], cell.pop("change"), cell.pop("seed")
    cell |= {"w1": section.w1, "w2": section.w2, "boosting": section.boosting, "members": members}
    cell |= {"needs": "discriminator", "window": (config.guided.time_min, config.guided.time_max)}
    if change != NO_CHANGE:
        cell |= {key: value for key, value in vars(section.changes[change]).items() if value is not None}
    return Variant(**vars(config.sampler) | cell), seed


def objective(config: Config, layout: Layout) -> Objective:
    """A trial samples a cell with the networks of its replicate."""
    replicates = [GuidedSamples(config, replicate) for replicate in layout.replicates(config.replicates)]
    section = config.studies.factorial
    span = replace(config.guided, images=section.images, seed_start=section.seed_start)

    def distance(trial: optuna.Trial, tracker: Tracker) -> float:
        variant, seed = suggest(trial, config)
        *_, features = replicates[seed].features(variant, span)
        fid, influence = frechet_influence(features, replicates[seed].reference)
        debiased, moved = debiased_distance(features, replicates[seed].reference), None
        if variant.rule == RULES[1]:
            settings, at = config.replicate(seed), replicates[seed].layout
            moved = variant_displacement(settings, at, open_networks(settings, at, variant), variant)
        for key, value in zip(MEASURED, (standard_error(influence), debiased, moved), strict=True):
            trial.set_user_attr(key, value)
        tracker.summary(trial.user_attrs)
        return fid

    return distance


def write_results(study: optuna.Study, config: Config, layout: Layout, cells: StudyPlan) -> dict[str, Any]:
    """Write reproduction.json and study/factorial* from the cells that are complete; returns how many those are."""
    section, frame = config.studies.factorial, cell_frame(study, config)
    if missing := len(cells.starts) - len(frame):
        tracking.notice(f"{missing} cells are not complete: run the command again, unless they diverged")
    counts = {"cells": len(frame), "missing": missing, "replicates": config.replicates}
    facts = {"study": cells.word, **counts, "fid_network": config.fid_network.name}
    record = {**facts, **plain(section, "threads"), "factors": factors(frame), "law": law(frame)}
    write_json(layout.report / "reproduction.json", frame.astype(object).where(frame.notna(), None).to_dict("records"))
    write_json(layout.study / "factorial.json", record)
    write_chart(_draw_law(frame, config), layout.study / "factorial_law.png", config)
    return counts


def cell_frame(study: optuna.Study, config: Config) -> pd.DataFrame:
    """The complete cells as planned; a ratio to one discriminator by probability needs distances above 0."""
    trials, rows = {trial.user_attrs[GRID]: trial for trial in complete(study)}, list[dict[str, Any]]()
    for trial in (trials[name] for name in plan(config).starts if name in trials):
        measured = {key: trial.user_attrs.get(key) for key in MEASURED}
        rows.append({**trial.params, "n": config.studies.factorial.images, "fid": trial.value, **measured})
    frame, levels = pd.DataFrame(rows), ["seed", "steps"]
    positive = frame["fid_debiased"].where(frame["fid_debiased"] > 0)
    single = (frame["rule"] == RULES[0]) & (frame["members"] == 1)
    divisor = frame.assign(divisor=positive)[single].set_index(levels)["divisor"]
    return frame.assign(ratio_to_d0=positive / frame.join(divisor, on=levels)["divisor"])


def factors(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The clipped rule's geometric mean factor over replicates."""
    rows, keys = list[dict[str, Any]](), ["set", "members", "steps"]
    clipped = frame[(frame["rule"] == RULES[1]) & (frame["change"] == NO_CHANGE)].dropna(subset="ratio_to_d0")
    for cell, cells in clipped.groupby(keys):
        rows.append(dict(zip(keys, cell, strict=True)) | over_replicates(np.log(cells["ratio_to_d0"])))
    return rows


def over_replicates(logs: Any) -> dict[str, Any]:
    """A geometric mean over n training replicates with its 95 % interval by Student's t; without one if n = 1."""
    low, high = np.exp(stats.ttest_1samp(logs, 0).confidence_interval()) if len(logs) > 1 else (None, None)
    return {"factor": math.exp(np.mean(logs)), "low": low, "high": high, "n": len(logs)}


def law(frame: pd.DataFrame) -> dict[str, Any]:
    """Rank correlations of displacement and FID by the clipped rule: of all cells, and over seeds of the same cell."""
    cells = frame[frame["rule"] == RULES[1]].astype({"displacement": float}).dropna(subset="displacement")
    same = cells.groupby([name for name in CELL if name != "seed"])[["displacement", "fid"]]
    within = [group["displacement"].corr(group["fid"], "spearman") for _, group in same if len(group) > 2]
    overall = float(cells["displacement"].corr(cells["fid"], "spearman")) if len(cells) > 2 else None
    mean = float(np.mean(within)) if within else None
    return {"cells": len(cells), "rank_correlation": overall, "groups": len(within), "mean_over_seeds": mean}


def _draw_law(frame: pd.DataFrame, config: Config) -> Any:
    cells, (_, axes) = frame[frame["rule"] == RULES[1]], plt.subplots(figsize=(8.6, 4.4), layout="constrained")
    members = sorted({*cells["members"]})
    for number, (change, shown) in enumerate(cells.groupby("change")):
        for count, marker in zip(members, "osD^v", strict=False):
            of_count, name = shown[shown["members"] == count], "as it is" if change == NO_CHANGE else str(change)
            label = f"{name}, {count} members" if count > 1 else f"{name}, one"
            axes.plot(
                of_count["displacement"], of_count["fid"], marker, color=f"C{number % 10}", label=label, alpha=0.7
            )
    distance, n = f"FID ({config.fid_network.name})", config.studies.factorial.images
    title = f"Clipped raw logits: a point a cell and training seed, N = {n}"
    axes.set(yscale="log", xlabel="displacement in standard deviations, computed", ylabel=distance, title=title)
    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return axes
