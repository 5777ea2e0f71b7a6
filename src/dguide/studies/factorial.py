"""Study `factorial`: why the reproduction's ensemble scored FID 14.35, by sampling alone.

A cell is a rule, members, steps, a training replicate, and perhaps a change of the reproduction's other settings; all
cells share their noise. For those of the clipped rule the displacement is computed, which should predict their FID.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
import torch
from matplotlib.ticker import LogLocator, NullLocator

from dguide import tracking
from dguide.settings import Config, Layout, Variant, plain
from dguide.stages.guided import Networks, guided_levels, moved_logits, open_networks
from dguide.studies.study import GRID, GuidedSamples, Objective, StudyPlan, complete, write_chart
from dguide.tracking import Tracker
from discriminator_guidance.core.files import read_npz, write_csv, write_json
from discriminator_guidance.core.noise import as_tensor, column, marginal_mean, normal, scaled, tau_from_sigma
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from discriminator_guidance.metrics.significance import standard_error
from discriminator_guidance.sampling.guidance import gradient
from discriminator_guidance.sampling.weights import delivered_weight

# What makes a cell: a set of members and how many of them, the first ones; levels; the number of a training replicate.
CELL = ("set", "rule", "members", "steps", "change", "seed")
NO_CHANGE = "none"
RULES = ("mean_probability", "clipped_logit_mean")  # ours and the reproduction's
MEASURED = ("standard_error", "fid_debiased", "displacement")  # of a cell, beside its FID
IMAGES = 200  # unguided samples whose logits are measured


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
    row = vars(config.sampler) | {"w1": section.w1, "w2": section.w2, "boosting": section.boosting}
    row |= {"needs": "discriminator", "window": (config.guided.time_min, config.guided.time_max)}
    row |= {"members": section.sets[cell["set"]][: cell["members"]], "rule": cell["rule"], "steps": cell["steps"]}
    if (name := cell["change"]) != NO_CHANGE:
        row |= {key: value for key, value in vars(section.changes[name]).items() if value is not None}
    return Variant(**row), cell["seed"]


def objective(config: Config, layout: Layout) -> Objective:
    """A trial samples a cell with the networks of its replicate."""
    replicates = [GuidedSamples(config, replicate) for replicate in layout.replicates(config.replicates)]
    section = config.studies.factorial
    span = replace(config.guided, images=section.images, seed_start=section.seed_start)

    def distance(trial: optuna.Trial, tracker: Tracker) -> float:
        if GRID not in trial.user_attrs:
            raise optuna.TrialPruned("every cell has been drawn")
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


def displacement(
    logits: np.ndarray, slopes: np.ndarray, spans: np.ndarray, weight: float, boosting: bool = False, first: int = 0
) -> np.ndarray:
    """The displacement (N,) of samples in standard deviations, after T noise levels from the highest on.

    With r = p / |g| a sample moves by (r^2 + 2 w ds)^(1/2) - r where p is in (0, 1), else not (docs/method.md).
    logits, slopes: p and |g| (T, N) of undisplaced samples. spans: ds (T,) to the next level. weight: w, what the
    sampler delivers. boosting: at even steps it doubles where p < 1/2, which the rule takes for fake. first: the first
    level's step.
    """
    moved = np.zeros(logits.shape[1])
    for step, (p, slope, ds) in enumerate(zip(logits, slopes, spans, strict=True), first):
        ratio, now = p / slope + moved, p + slope * moved
        w = weight * np.where((now < 0.5) & boosting & (step % 2 == 0), 2.0, 1.0)
        moved = np.where((now > 0) & (now < 1), moved + np.sqrt(ratio**2 + 2 * w * ds) - ratio, moved)
    return moved


def variant_displacement(config: Config, layout: Layout, networks: Networks, variant: Variant) -> float:
    """The mean displacement of unguided samples by a variant of the clipped-logit rule."""
    device, members = networks.compute.device, networks.members
    assert members is not None, "only a rule of members moves samples"
    fakes = read_npz(layout.fake() / "samples.npz", ["images", "labels"] if config.cond else ["images"], "fake")
    images, size = scaled(as_tensor(fakes.pop("images")[:IMAGES], device)), config.guided.batch_size
    labels = [torch.from_numpy(values[:IMAGES]).to(device) for values in fakes.values()]
    levels, inside = guided_levels(variant)
    if not inside.any():
        return 0.0
    s, logit, parts = torch.log1p(levels**2) / 2, moved_logits(members, variant), list[tuple[np.ndarray, np.ndarray]]()
    noise = normal(config.guided.seed, "displacement", 0, 0, images.shape).to(device)  # one for all levels
    for sigma in levels[:-1][inside].tolist():
        for x0, n, *classes in zip(*(torch.split(v, size) for v in (images, noise, *labels)), strict=True):
            time = tau_from_sigma(torch.full((len(x0),), sigma, dtype=torch.float64, device=device))
            x_vp = (column(marginal_mean(time), x0) * (x0 + sigma * n)).float().requires_grad_(True)
            with networks.compute.autocast():
                mean = logit(x_vp, time.float(), *classes).float().mean(dim=0)
            slope = gradient(mean, x_vp).flatten(1).norm(dim=1)
            parts.append((mean.detach().cpu().numpy(), slope.cpu().numpy()))
    logits, slopes = (np.concatenate(values).reshape(-1, len(images)) for values in zip(*parts, strict=True))
    weight = delivered_weight(variant.window, **vars(SamplerSettings.of(variant)))
    spans = (s[:-1] - s[1:])[inside].numpy()
    return float(displacement(logits, slopes, spans, weight, variant.boosting, int(inside.int().argmax())).mean())


def write_results(study: optuna.Study, config: Config, layout: Layout, plan: StudyPlan) -> dict[str, Any]:
    """Write factorial.csv, factorial.json and factorial_law.png from the complete cells; returns how many those are."""
    trials, rows = {trial.user_attrs.get(GRID): trial for trial in complete(study)}, list[dict[str, Any]]()
    for trial in (trials[name] for name in plan.starts if name in trials):
        measured = {key: trial.user_attrs.get(key) for key in MEASURED}
        rows.append({**trial.params, "n": config.studies.factorial.images, "fid": trial.value, **measured})
    section, frame = config.studies.factorial, pd.DataFrame(rows).astype({"displacement": float})
    if missing := len(plan.starts) - len(frame):
        tracking.notice(f"{missing} cells are not complete: run the command again, unless they diverged")
    counts = {"cells": len(frame), "missing": missing, "replicates": config.replicates}
    record = {"study": plan.word, **counts, "fid_network": config.fid_network.name, **plain(section)}
    write_csv(layout.study / "factorial.csv", frame)
    write_json(layout.study / "factorial.json", record)
    write_chart(_draw_law(frame, config), layout.study / "factorial_law.png", config)
    return counts


def _draw_law(frame: pd.DataFrame, config: Config) -> Any:
    cells, (_, axes) = frame[frame["rule"] == RULES[1]], plt.subplots(figsize=(8.6, 4.4), layout="constrained")
    for number, (change, shown) in enumerate(cells.groupby("change")):
        for count in map(int, sorted({*shown["members"]})):
            points, marker = shown[shown["members"] == count], "osD^vpXPh*"[(count - 1) % 10]
            name = "the reproduction's settings" if change == NO_CHANGE else str(change).replace("_", " ")
            label = f"{name}, {count} members" if count > 1 else f"{name}, one"
            axes.plot(points["displacement"], points["fid"], marker, color=f"C{number % 10}", label=label, alpha=0.7)
    distance, n = f"FID ({config.fid_network.name})", config.studies.factorial.images
    title = f"By clipped logit: a point a cell and training seed, N = {n}"
    axes.set(yscale="log", xlabel="displacement in standard deviations, computed", ylabel=distance, title=title)
    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return axes
