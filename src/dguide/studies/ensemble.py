"""Study `ensemble`: how members are weighed and combined, how strongly they guide, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.pruners import PercentilePruner

from dguide.artifacts import Layout, load_head
from dguide.settings import Config, Variant
from dguide.stages.sampling import window_of
from dguide.studies.distances import GuidedDistances, distance_inputs, distance_settings
from dguide.studies.record import attach_samples, write_record
from dguide.studies.storage import StudyPlan
from dguide.studies.trials import GRID, begin, complete, count, run_trials, wanted
from dguide.tracking import Tracker

WORD, TUNED = "ensemble", "tuned_mean"
START, FITTED = "plain mean", "fitted"
DIGITS = 3  # of what is tried, so that what is promoted is what was tried


def run(config: Config, layout: Layout, trials: str, recover_all: bool) -> dict[str, Any]:
    """Search up to a number of trials and write the record; returns the best."""
    layouts = layout.replicates(config.replicates)
    study = begin(config, layout, plan(config, layouts), starting_points(config), recover_all)
    total = wanted(trials, study)
    trained = [GuidedDistances(config.replicate(number), one) for number, one in enumerate(layouts)]
    run_trials(study, partial(_objective, trained), total, config, config.studies.ensemble.model_dump())
    return write_results(study, config, layout)


def plan(config: Config, layouts: Sequence[Layout]) -> StudyPlan:
    """The search."""
    search, plain = config.studies.ensemble, config.variants[config.studies.start]
    return StudyPlan(
        word=WORD,
        objective=f"FID ({config.fid_network.name}) of {config.studies.tuning.images} guided tuning samples"
        + (f", mean of {len(layouts)} trainings" if len(layouts) > 1 else ""),
        settings={
            "search": search.model_dump(exclude={"pruner"}),
            "plain": plain.model_dump(),
            **distance_settings(config),
        },
        inputs=distance_inputs(layouts, plain.members),
        pruner=PercentilePruner(search.pruner.percentile, n_startup_trials=search.pruner.startup_trials),
    )


def starting_points(config: Config) -> dict[str, dict[str, Any]]:
    """The first trials: the plain mean by each rule and each member alone, guided as `study.start`; the fit."""
    search, plain = config.studies.ensemble, config.variants[config.studies.start]
    low, high = window_of(config, plain)
    guidance = {"w1": plain.w1, "w2": plain.w2, "time_min": low, "time_max": high, "boosting": plain.boosting}
    fixed, (*others, _) = guidance | ({FITTED: False} if search.fitted else {}), plain.members  # the last has the rest
    equal = {f"weight_{name}": 1 / len(plain.members) for name in others}
    rules = dict.fromkeys([plain.rule, *search.rules])
    points = {START if rule == plain.rule else f"{START}, {rule}": {**fixed, **equal, "rule": rule} for rule in rules}
    for name in plain.members:
        points[name] = {**fixed, **{f"weight_{other}": float(other == name) for other in others}, "rule": plain.rule}
    return points | ({FITTED: {**guidance, "w1": 1.0, "w2": 1.0, FITTED: True}} if search.fitted else {})


def suggest(trial: optuna.Trial, config: Config) -> Variant:
    """Draw the members' weights on their simplex and a rule, or fit weights by noise level; and the guidance."""
    search, plain = config.studies.ensemble, config.variants[config.studies.start]
    w1, w2 = (round(trial.suggest_float(key, *getattr(search, key)), DIGITS) for key in ("w1", "w2"))
    low = trial.suggest_float("time_min", *search.time_min, log=True)
    high = trial.suggest_float("time_max", *search.time_max)
    drawn: dict[str, Any] = {
        "w1": max(w1, 10**-DIGITS),  # boosting acts on w1, and something must guide
        "w2": w2,
        "boosting": trial.suggest_categorical("boosting", search.boosting),
        "window": (float(f"{low:.{DIGITS}g}"), float(f"{high:.{DIGITS}g}")),
    }
    if search.fitted and trial.suggest_categorical(FITTED, [False, True]):
        return plain.model_copy(update={**drawn, "weights": FITTED, "rule": "mean_logit"})
    weights = dict(zip(plain.members, simplex_point(trial, plain.members), strict=True))
    kept = {name: weight for name, weight in weights.items() if weight}
    drawn |= {
        "needs": "discriminator" if len(kept) > 1 else f"discriminator/{next(iter(kept))}",
        "members": tuple(kept),
        "weights": "equal" if len(set(kept.values())) == 1 else tuple(kept.values()),
        "rule": trial.suggest_categorical("rule", search.rules),
    }
    return plain.model_copy(update=drawn)


def simplex_point(trial: optuna.Trial, members: Sequence[str]) -> list[float]:
    """Weights with 3 decimals: each between 0 and what those before it leave, the last all of that."""
    weights, rest = list[float](), 1.0
    for name in members:
        weights.append(trial.suggest_float(f"weight_{name}", rest if name == members[-1] else 0.0, rest))
        rest = max(0.0, rest - weights[-1])
    if max(weights) - min(weights) < 10**-DIGITS:
        return [1 / len(weights)] * len(weights)
    weights = [round(weight, DIGITS) for weight in weights]
    weights[int(np.argmax(weights))] += 1 - sum(weights)
    return [round(weight, DIGITS) for weight in weights]


def _objective(trained: Sequence[GuidedDistances], trial: optuna.Trial, tracker: Tracker) -> float:
    """The mean distance over the training replicates; after each batch, of what has been drawn."""
    variant, fids, done = suggest(trial, trained[0].config), list[float](), 0
    trial.set_user_attr("variant", variant.model_dump(mode="json", exclude_none=True))
    for one in trained:
        heads, batches = [load_head(one.layout, name, one.compute) for name in variant.members], list[np.ndarray]()
        fids.append(math.inf)
        for features, _, images in one.draws(variant, heads, one.config.studies.tuning):
            if not done:
                attach_samples(trial, tracker, images, one.layout)
            batches.append(features)
            fids[-1], _ = one.distance(batches)
            mean = float(np.mean(fids))
            tracker.metrics(done, {"fid_so_far": mean})
            trial.report(mean, done)
            done += 1
            if GRID not in trial.user_attrs and trial.should_prune():
                raise optuna.TrialPruned
    return float(np.mean(fids))


def write_results(study: optuna.Study, config: Config, layout: Layout) -> dict[str, Any]:
    """Write the record; returns the best trial."""
    best = complete(study)[0]
    begun = {trial.user_attrs[GRID]: trial.value for trial in complete(study) if GRID in trial.user_attrs}
    values = {"fid": best.value, "start_fid": begun.get(START), "fitted_fid": begun.get(FITTED)}
    record = {
        "winner": {"trial": best.number, "values": values, "params": best.params},
        "rows": {"variants": {TUNED: best.user_attrs["variant"]}},
    }
    write_record(study, config, layout, record)
    return {"trials": count(study), "best": best.number, **values}
