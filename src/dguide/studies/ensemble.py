"""Study `ensemble`: how members are weighed and combined, how strongly they guide, and when."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import optuna
from optuna.pruners import MedianPruner

from dguide.settings import Config, Layout, Variant, row_of
from dguide.studies.study import GRID, GuidedSamples, Objective, StudyPlan, draw_values
from dguide.tracking import Tracker
from discriminator_guidance.metrics.distances import frechet_influence

TUNED, START, FITTED = "tuned_mean", "plain mean", "fitted"
DIGITS, LEAST = 3, 1e-3  # of weights


def plan(config: Config) -> StudyPlan:
    """The search, which begins with the plain mean by each rule, each member alone, as `study.start`, and the fit."""
    search, start = config.studies.ensemble, config.variants[config.studies.start]
    low, high = start.window
    guidance = {"w1": start.w1, "w2": start.w2, "time_min": low, "time_max": high, "boosting": start.boosting}
    fixed = guidance | ({FITTED: False} if search.fitted else {})
    weighed = start.members[:-1]  # the last has what is left
    equal = {f"weight_{name}": 1 / len(start.members) for name in weighed}
    rules = dict.fromkeys([start.rule, *search.rules])
    points = {START if rule == start.rule else f"{START}, {rule}": {**fixed, **equal, "rule": rule} for rule in rules}
    for name in start.members if weighed else ():
        points[name] = {**fixed, **{f"weight_{other}": float(other == name) for other in weighed}, "rule": start.rule}
    if search.fitted:
        points[FITTED] = {**guidance, "w1": 1.0, "w2": 1.0, FITTED: True}
    title = f"FID ({config.fid_network.name}) of {config.studies.tuning.images} guided tuning samples"
    title += f", mean of {config.replicates} training seeds" * (config.replicates > 1)
    return StudyPlan("ensemble", title, points, MedianPruner(n_startup_trials=10, n_min_trials=4))


def suggest(trial: optuna.Trial, config: Config) -> Variant:
    """Draw the members' weights on their simplex and a rule, or fit weights by noise level; and the guidance."""
    search, start = config.studies.ensemble, config.variants[config.studies.start]
    guidance = ("w1", "w2", "time_min", "time_max", "boosting")
    drawn = draw_values(trial, search, guidance, choices=("boosting",), logarithmic=("time_min",))
    drawn["w1"] = max(drawn["w1"], LEAST)  # boosting acts on w1, and something must guide
    drawn |= {"window": (drawn.pop("time_min"), drawn.pop("time_max")), "published": None}
    if search.fitted and trial.suggest_categorical(FITTED, [False, True]):
        return replace(start, **drawn, weights="fitted", rule="mean_logit", logit_scale=1.0, logit_shift=0.0)
    weights = dict(zip(start.members, simplex_point(trial, start.members), strict=True))
    members = tuple(name for name, weight in weights.items() if weight)
    equal = len({weights[name] for name in members}) == 1
    drawn["needs"] = "discriminator" if len(members) > 1 else f"discriminator/{members[0]}"
    drawn["weights"] = "equal" if equal else tuple(weights[name] for name in members)
    drawn["rule"] = trial.suggest_categorical("rule", search.rules)
    return replace(start, **drawn, members=members)


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
    replicates = [GuidedSamples(config, replicate) for replicate in layout.replicates(config.replicates)]

    def mean_distance(trial: optuna.Trial, tracker: Tracker) -> float:
        variant, fids, batches = suggest(trial, config), list[float](), count()
        for samples in replicates:
            fids.append(math.inf)
            for features in samples.features(variant, config.studies.tuning):
                fids[-1], _ = frechet_influence(features, samples.reference)
                step = next(batches)
                tracker.metrics(step, {"fid_so_far": float(np.mean(fids))})
                trial.report(float(np.mean(fids)), step)
                if GRID not in trial.user_attrs and trial.should_prune():
                    raise optuna.TrialPruned
        trial.set_user_attr("rows", {"variants": {TUNED: row_of(config, variant)}})
        return float(np.mean(fids))

    return mean_distance
