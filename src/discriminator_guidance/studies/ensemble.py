"""Study `ensemble`: how members are weighed and combined, how strongly they guide, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.pruners import PercentilePruner

from discriminator_guidance.checkpoints.weights import WEIGHT_FILES
from discriminator_guidance.config import Config, Variant
from discriminator_guidance.guidance.ensemble import simplex_weights
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_head
from discriminator_guidance.stages.sampling import window_of
from discriminator_guidance.studies.distances import GuidedDistances, distance_inputs, distance_settings
from discriminator_guidance.studies.record import attach_samples, write_record
from discriminator_guidance.studies.storage import StudyPlan
from discriminator_guidance.studies.trials import GRID, begin, complete, count, run_trials, wanted
from discriminator_guidance.tracking import Tracker

WORD, TUNED = "ensemble", "tuned_mean"
START = "plain mean"
MOST = 0.999  # a share of 0 has no weight, this one the largest
DIGITS = 3  # of what is tried, so that what is promoted is what was tried


def run(config: Config, layout: Layout, trials: str, recover_all: bool) -> dict[str, Any]:
    """Search up to a number of trials and write the record; returns the best."""
    study = begin(config, layout, plan(config, layout), starting_points(config), recover_all)
    total = wanted(trials, study)
    distances = GuidedDistances(config, layout)
    heads = {name: load_head(layout, name, distances.compute) for name in config.variants[config.study.start].members}
    run_trials(study, partial(_objective, distances, heads), total, config, config.study.ensemble.model_dump())
    return write_results(study, config, layout)


def plan(config: Config, layout: Layout) -> StudyPlan:
    """The search."""
    search, plain = config.study.ensemble, config.variants[config.study.start]
    weights = [layout.discriminator(member) / name for member in plain.members for name in WEIGHT_FILES]
    return StudyPlan(
        word=WORD,
        objective=f"FID ({config.fid_network.name}) of {config.study.tuning.images} guided tuning samples",
        settings={
            "search": search.model_dump(exclude={"pruner"}),
            "plain": plain.model_dump(),
            **distance_settings(config),
        },
        inputs=(*distance_inputs(layout), *weights),
        pruner=PercentilePruner(search.pruner.percentile, n_startup_trials=search.pruner.startup_trials),
    )


def starting_points(config: Config) -> dict[str, dict[str, Any]]:
    """What is tried first, guided as variant `study.start` is: its plain mean by each rule, and each member alone."""
    plain = config.variants[config.study.start]
    window = window_of(config, plain)
    guidance = {
        "w1": plain.w1,
        "w2": plain.w2,
        "time_min": window[0],
        "time_max": window[1],
        "boosting": plain.boosting,
    }
    equal = guidance | {f"share_{name}": 0.5 for name in plain.members}
    rules = [plain.rule, *(rule for rule in config.study.ensemble.rules if rule != plain.rule)]
    points = {START if rule == plain.rule else f"{START}, {rule}": equal | {"rule": rule} for rule in rules}
    for name in plain.members:
        shares = {f"share_{other}": MOST if other == name else 0.0 for other in plain.members}
        points[name] = guidance | shares | {"rule": plain.rule}
    return points


def suggest(trial: optuna.Trial, config: Config) -> Variant:
    """Draw a share for each member, from which its weight follows, a rule, and the guidance."""
    search, plain = config.study.ensemble, config.variants[config.study.start]
    weights = simplex_point([trial.suggest_float(f"share_{name}", 0.0, MOST) for name in plain.members])
    kept = {name: weight for name, weight in zip(plain.members, weights, strict=True) if weight}
    w1, w2 = (round(trial.suggest_float(key, *getattr(search, key)), DIGITS) for key in ("w1", "w2"))
    low = trial.suggest_float("time_min", *search.time_min, log=True)
    high = trial.suggest_float("time_max", *search.time_max)
    drawn = {
        "needs": "discriminator" if len(kept) > 1 else f"discriminator/{next(iter(kept))}",
        "members": tuple(kept),
        "rule": trial.suggest_categorical("rule", search.rules),
        "weights": "equal" if len(set(kept.values())) == 1 else tuple(kept.values()),
        "w1": max(w1, 10**-DIGITS),  # boosting acts on w1, and something must guide
        "w2": w2,
        "boosting": trial.suggest_categorical("boosting", search.boosting),
        "window": (float(f"{low:.{DIGITS}g}"), float(f"{high:.{DIGITS}g}")),
    }
    return plain.model_copy(update=drawn)


def simplex_point(shares: Sequence[float]) -> list[float]:
    """Weights with 3 decimals from shares in [0, 1): -log(1 - share), normalised.

    Uniform shares make every point of the simplex equally likely (Devroye 1986, Chapter 11: uniform spacings as
    normalised exponentials).
    """
    spread = [-math.log1p(-share) for share in shares]
    if len(set(spread)) == 1:
        return [1 / len(spread)] * len(spread)
    weights = [round(part / sum(spread), DIGITS) for part in spread]
    weights[int(np.argmax(weights))] += 1 - sum(weights)
    return [round(weight, DIGITS) for weight in weights]


def _objective(
    distances: GuidedDistances, heads: Mapping[str, EncoderUNet], trial: optuna.Trial, tracker: Tracker
) -> float:
    variant = suggest(trial, distances.config)
    weights = dict(zip(variant.members, simplex_weights(variant.weights, len(variant.members)), strict=True))
    shown = {f"weight_{name}": weights.get(name, 0.0) for name in heads}
    for key, value in {**shown, "variant": variant.model_dump(mode="json", exclude_none=True)}.items():
        trial.set_user_attr(key, value)
    tracker.params(shown)
    batches: list[np.ndarray] = []
    own, fid = [heads[name] for name in variant.members], math.inf
    for number, (features, _, images) in enumerate(distances.draws(variant, own, distances.config.study.tuning)):
        if number == 0:
            attach_samples(trial, tracker, images, distances.layout)
        batches.append(features)
        fid, _ = distances.distance(batches)
        tracker.metrics(number, {"fid_so_far": fid})
        trial.report(fid, number)
        if GRID not in trial.user_attrs and trial.should_prune():
            raise optuna.TrialPruned
    return fid


def write_results(study: optuna.Study, config: Config, layout: Layout) -> dict[str, Any]:
    """Write the record; returns the best trial."""
    best = complete(study)[0]
    begun = {trial.user_attrs[GRID]: trial.value for trial in complete(study) if GRID in trial.user_attrs}
    values = {"fid": best.value, "start_fid": begun.get(START)}
    record = {
        "winner": {"trial": best.number, "values": values, "params": best.params},
        "rows": {"variants": {TUNED: best.user_attrs["variant"]}},
    }
    write_record(study, config, layout, record)
    return {"trials": count(study), "best": best.number, **values}
