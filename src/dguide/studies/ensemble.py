"""Study `ensemble`: how members are weighed and combined, how strongly they guide, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna

from dguide.settings import Config, Layout, Variant, plain, row_of
from dguide.stages.guided import window_of
from dguide.studies.common import GuidedSamples, distance_inputs, distance_settings, write_record
from dguide.studies.trials import GRID, Objective, StudyPlan, complete, draw_values
from dguide.tracking import Tracker
from discriminator_guidance.metrics.distances import frechet_influence

TUNED, START, FITTED = "tuned_mean", "plain mean", "fitted"
DIGITS, LEAST = 3, 1e-3  # of weights


def plan(config: Config, layout: Layout) -> StudyPlan:
    """The search."""
    search, start = config.studies.ensemble, config.variants[config.studies.start]
    layouts = layout.replicates(config.replicates)
    return StudyPlan(
        word="ensemble",
        objective=f"FID ({config.fid_network.name}) of {config.studies.tuning.images} guided tuning samples"
        + (f", mean of {len(layouts)} trainings" if len(layouts) > 1 else ""),
        settings={"search": plain(search, "pruner"), "plain": plain(start, "published"), **distance_settings(config)},
        inputs=distance_inputs(layouts, start.members),
        starts=starting_points(config),
    )


def starting_points(config: Config) -> dict[str, dict[str, Any]]:
    """The first trials: the plain mean by each rule and each member alone, guided as `study.start`; the fit."""
    search, start = config.studies.ensemble, config.variants[config.studies.start]
    low, high = window_of(config, start)
    guidance = {"w1": start.w1, "w2": start.w2, "time_min": low, "time_max": high, "boosting": start.boosting}
    fixed = guidance | ({FITTED: False} if search.fitted else {})
    weighed = start.members[:-1]  # the last has what is left
    equal = {f"weight_{name}": 1 / len(start.members) for name in weighed}
    rules = dict.fromkeys([start.rule, *search.rules])
    points = {START if rule == start.rule else f"{START}, {rule}": {**fixed, **equal, "rule": rule} for rule in rules}
    for name in start.members:
        points[name] = {**fixed, **{f"weight_{other}": float(other == name) for other in weighed}, "rule": start.rule}
    return points | ({FITTED: {**guidance, "w1": 1.0, "w2": 1.0, FITTED: True}} if search.fitted else {})


def suggest(trial: optuna.Trial, config: Config) -> Variant:
    """Draw the members' weights on their simplex and a rule, or fit weights by noise level; and the guidance."""
    search, start = config.studies.ensemble, config.variants[config.studies.start]
    ranges = {key: getattr(search, key) for key in ("w1", "w2", "time_min", "time_max", "boosting")}
    drawn = draw_values(trial, ranges, choices=("boosting",), log=("time_min",))
    drawn["w1"] = max(drawn["w1"], LEAST)  # boosting acts on w1, and something must guide
    drawn["window"] = (drawn.pop("time_min"), drawn.pop("time_max"))
    if search.fitted and trial.suggest_categorical(FITTED, [False, True]):
        return replace(start, **drawn, weights="fitted", rule="mean_logit")
    weights = dict(zip(start.members, simplex_point(trial, start.members), strict=True))
    members = tuple(name for name, weight in weights.items() if weight)
    equal = len({weights[name] for name in members}) == 1
    drawn |= {
        "needs": "discriminator" if len(members) > 1 else f"discriminator/{members[0]}",
        "members": members,
        "weights": "equal" if equal else tuple(weights[name] for name in members),
        "rule": trial.suggest_categorical("rule", search.rules),
    }
    return replace(start, **drawn)


def simplex_point(trial: optuna.Trial, members: Sequence[str]) -> list[float]:
    """Weights with 3 decimals: between 0 and what those before it leave, the last all of that."""
    weights, left = list[float](), 1.0
    for name in members:
        weights.append(trial.suggest_float(f"weight_{name}", left if name == members[-1] else 0.0, left))
        left = max(0.0, left - weights[-1])
    if max(weights) - min(weights) < LEAST:
        return [1 / len(weights)] * len(weights)
    weights = [round(weight, DIGITS) for weight in weights]
    weights[int(np.argmax(weights))] += 1 - sum(weights)
    return [round(weight, DIGITS) for weight in weights]


def objective(config: Config, layout: Layout) -> Objective:
    """A trial samples with the networks of every training replicate."""
    layouts = layout.replicates(config.replicates)
    replicates = [GuidedSamples(config.replicate(number), layouts[number]) for number in range(config.replicates)]

    def mean_distance(trial: optuna.Trial, tracker: Tracker) -> float:
        """The mean distance over the replicates; after each batch, of what has been drawn."""
        variant, fids, drawn = suggest(trial, config), list[float](), 0
        trial.set_user_attr("variant", row_of(config, variant))
        for samples in replicates:
            features = list[np.ndarray]()
            fids.append(math.inf)
            for batch in samples.batches(variant, config.studies.tuning):
                if drawn == 0:
                    samples.attach(trial, tracker, batch["images"])
                features.append(batch["features"])
                fids[-1], _ = frechet_influence(np.concatenate(features), samples.reference)
                tracker.metrics(drawn, {"fid_so_far": float(np.mean(fids))})
                trial.report(float(np.mean(fids)), drawn)
                drawn += 1
                if GRID not in trial.user_attrs and trial.should_prune():
                    raise optuna.TrialPruned
        return float(np.mean(fids))

    return mean_distance


def write_results(study: optuna.Study, config: Config, layout: Layout) -> dict[str, Any]:
    """Write the record; returns the best trial."""
    best = complete(study)[0]
    starts = {trial.user_attrs[GRID]: trial.value for trial in complete(study) if GRID in trial.user_attrs}
    values = {"fid": best.value, "start_fid": starts.get(START), "fitted_fid": starts.get(FITTED)}
    record = {
        "winner": {"trial": best.number, "values": values, "params": best.params},
        "rows": {"variants": {TUNED: best.user_attrs["variant"]}},
    }
    write_record(study, config, layout, record)
    return {"best": best.number, **values}
