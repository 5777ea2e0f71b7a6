"""Study `factorial`: why the reproduction's ensemble scored FID 14.35, by sampling alone.

A cell is a rule, steps, w2, boosting, members, a training replicate, and perhaps a further change; all cells share
their noise. For those of the clipped rule the displacement is computed, which should predict their FID.
"""

import math
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator
from scipy import stats

from dguide import tracking
from dguide.settings import Config, Layout, Variant, plain
from dguide.settings.config import FactorialStudy
from dguide.stages.guided import open_networks
from dguide.studies.displacement import variant_displacement
from dguide.studies.study import GRID, GuidedSamples, Objective, StudyPlan, complete, write_chart
from dguide.tracking import Tracker
from discriminator_guidance.core.files import write_csv, write_json
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from discriminator_guidance.metrics.significance import standard_error

# What makes a cell: a set of members and how many of them, the first ones; levels; the number of a training replicate.
CELL = ("set", "rule", "members", "steps", "w2", "boosting", "seed")
NO_CHANGE = "none"
RULES = ("mean_probability", "clipped_logit_mean")  # ours and the reproduction's
MEASURED = ("standard_error", "fid_debiased", "displacement")  # of a cell, beside its FID


def plan(config: Config) -> StudyPlan:
    """The cells: the reproduction's w2 and boosting first, which answer the question, then other corners."""
    section = config.studies.factorial
    (first, members), *others = section.sets.items()
    steps, seeds = (*section.steps[::-1], *section.more_steps), range(config.replicates)
    corner = product([first], RULES[::-1], (len(members), 1), steps, section.w2[1:], section.boosting[1:], seeds)
    theirs = (section.steps[1], section.w2[1], section.boosting[1])
    added = [(name, RULES[1], len(names), *theirs, seed) for name, names in others for seed in seeds]
    cube = product([first], RULES[::-1], (len(members), 1), steps[:2], section.w2, section.boosting, seeds)
    plain_cells = product((*corner, *added, *cube), (NO_CHANGE,))
    cause = product([first], RULES[1:], (len(members), 1), *([level] for level in theirs), seeds)
    cells = dict[str, dict[str, Any]]()
    for cell, change in (*plain_cells, *product(cause, section.changes)):
        name = " ".join(map(str, cell if change == NO_CHANGE else (*cell, change)))
        cells[name] = dict(zip(CELL, cell, strict=True)) | ({"change": change} if section.changes else {})
    return StudyPlan("factorial", f"FID ({config.fid_network.name}) of {section.images} samples", cells)


def suggest(trial: optuna.Trial, config: Config) -> tuple[Variant, int]:
    """The variant by which the cell of an enqueued trial is sampled, and its training replicate."""
    section = config.studies.factorial
    sizes, steps = sorted({1, *map(len, section.sets.values())}), (*section.steps, *section.more_steps)
    levels: Any = ([*section.sets], RULES, sizes, steps, section.w2, section.boosting)
    cell: Any = {key: trial.suggest_categorical(key, values) for key, values in zip(CELL, levels, strict=False)}
    members = section.sets[cell.pop("set")][: cell.pop("members")]
    fixed = vars(config.sampler) | {"needs": "discriminator", "members": members, "weights": "equal", "w1": section.w1}
    fixed["window"] = (config.guided.time_min, config.guided.time_max)
    change = trial.suggest_categorical("change", [NO_CHANGE, *section.changes]) if section.changes else NO_CHANGE
    if change != NO_CHANGE:
        cell |= {key: value for key, value in vars(section.changes[change]).items() if value is not None}
    return Variant(**fixed | cell), trial.suggest_int("seed", 0, config.replicates - 1)


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
    record = {**facts, **plain(section, "threads"), "factors": factors(frame, section), "law": law(frame)}
    write_json(layout.report / "reproduction.json", frame.astype(object).where(frame.notna(), None).to_dict("records"))
    write_json(layout.study / "factorial.json", record)
    if rows := effects(frame, section):
        write_csv(layout.study / "factorial.csv", rows)
    write_chart(_draw_law(frame, config), layout.study / "factorial_law.png", config)
    return counts


def cell_frame(study: optuna.Study, config: Config) -> pd.DataFrame:
    """The complete cells as planned; a ratio to one discriminator by probability needs distances above 0."""
    trials, rows = {trial.user_attrs[GRID]: trial for trial in complete(study)}, list[dict[str, Any]]()
    for trial in (trials[name] for name in plan(config).starts if name in trials):
        measured = {key: trial.user_attrs.get(key) for key in MEASURED}
        rows.append(
            {"change": NO_CHANGE, **trial.params, "n": config.studies.factorial.images, "fid": trial.value, **measured}
        )
    frame, levels = pd.DataFrame(rows), ["seed", "steps", "w2", "boosting"]
    positive = frame["fid_debiased"].where(frame["fid_debiased"] > 0)
    first = (frame["set"] == next(iter(config.studies.factorial.sets))) & (frame["change"] == NO_CHANGE)
    single = first & (frame["rule"] == RULES[0]) & (frame["members"] == 1)
    divisor = frame.assign(divisor=positive)[single].set_index(levels)["divisor"]
    return frame.assign(ratio_to_d0=positive / frame.join(divisor, on=levels)["divisor"])


def clipped_cells(frame: pd.DataFrame, section: FactorialStudy) -> pd.DataFrame:
    """The cells of the clipped rule at the reproduction's w2 and boosting that have a ratio, by steps."""
    theirs = (frame["rule"] == RULES[1]) & (frame["w2"] == section.w2[1]) & (frame["boosting"] == section.boosting[1])
    return frame[theirs & (frame["change"] == NO_CHANGE)].dropna(subset="ratio_to_d0").sort_values("steps")


def factors(frame: pd.DataFrame, section: FactorialStudy) -> list[dict[str, Any]]:
    """The clipped rule's geometric mean factor over replicates."""
    rows, keys = list[dict[str, Any]](), ["set", "members", "steps"]
    for cell, cells in clipped_cells(frame, section).groupby(keys):
        rows.append(dict(zip(keys, cell, strict=True)) | over_replicates(np.log(cells["ratio_to_d0"])))
    return rows


def effects(frame: pd.DataFrame, section: FactorialStudy) -> list[dict[str, Any]]:
    """Main effects and two-factor interactions of the cube, for one discriminator and for all.

    An effect is the mean logarithm at a factor's second level minus that at the first, an interaction that of the
    product (Box, Hunter & Hunter 2005, Chapter 5), over the replicates in which no corner is missing.
    """
    levels: dict[str, Any] = {"rule": RULES, "steps": section.steps, "w2": section.w2, "boosting": section.boosting}
    names = ["clipped logits", f"{section.steps[1]} steps", f"w2 = {section.w2[1]:g}", "boosting"]
    signs, corners = np.array([*product((-1, 1), repeat=4)]), pd.MultiIndex.from_product([*levels.values()])
    first = (frame["set"] == next(iter(section.sets))) & (frame["change"] == NO_CHANGE)
    cube, rows = frame[first & (frame["fid_debiased"] > 0)], []
    for members, cells in cube.groupby("members"):
        fids = cells.pivot(index="seed", columns=[*levels], values="fid_debiased").reindex(columns=corners).dropna()
        for term in (*combinations(range(4), 1), *combinations(range(4), 2)) if len(fids) else ():
            contrast = 2 * signs[:, term].prod(axis=1) / len(signs)
            effect = {"members": members, "effect": " x ".join(names[i] for i in term)}
            rows.append(effect | over_replicates(np.log(fids.to_numpy()) @ contrast))
    return rows


def over_replicates(logs: Any) -> dict[str, Any]:
    """A geometric mean over n training replicates with its 95 % interval by Student's t; without one if n = 1."""
    low, high = np.exp(stats.ttest_1samp(logs, 0).confidence_interval()) if len(logs) > 1 else (None, None)
    return {"factor": math.exp(np.mean(logs)), "low": low, "high": high, "n": len(logs)}


def law(frame: pd.DataFrame) -> dict[str, Any]:
    """Rank correlations of displacement and FID by the clipped rule: of all cells, and over seeds of the same cell."""
    cells = frame[frame["rule"] == RULES[1]].astype({"displacement": float}).dropna(subset="displacement")
    same = cells.groupby([name for name in (*CELL, "change") if name != "seed"])[["displacement", "fid"]]
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
