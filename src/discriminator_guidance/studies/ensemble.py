"""Study `ensemble`: how members are weighed and combined, how strongly they guide, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
from optuna.pruners import PercentilePruner
from optuna.trial import FrozenTrial
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.files import fingerprint, read_npz, sha256
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.config import Variant
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.evaluation.classification import classification_scores
from discriminator_guidance.guidance.ensemble import RULES, simplex_weights
from discriminator_guidance.stages.context import Context
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.storage import StudyPlan
from discriminator_guidance.studies.tuning_range import TuningRange, quiet
from discriminator_guidance.studies.workers import Enqueued, Objective, run_study

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

OnTrial = Callable[[str, FrozenTrial], None]

STUDY = "ensemble"
PLAIN = "ensemble_probability"  # the variant whose members are weighed, and where the search starts
GRID = "grid"  # user attribute of the trials that every study begins with
PLAIN_MEAN = "plain mean"
LEAST_U = 1e-3  # a share of 1 has no weight, this one the largest
DIGITS = 3  # decimals of what is tried, so that what is promoted is what was tried


def run(config: Config, context: Context, trials: int, workers: int, on_finished: OnTrial) -> optuna.Study:
    """Search until there are a number of trials.

    Args:
        config: of the profile.
        context: surroundings.
        trials: how many there shall be, those every study begins with and those of earlier calls included.
        workers: processes of `study.threads` threads.
        on_finished: told the study's name and each trial that ends, once.

    Returns:
        The study.

    Raises:
        ConfigError: settings have changed since it was begun, or `trials` has no room for what it begins with.
        InputError: the pipeline has not made what is needed.
    """
    plan, starts = ensemble_plan(config, context.layout), starting_points(config)
    if trials < len(starts):
        raise ConfigError(
            f"room for the {len(starts)} trials every study begins with", f"--trials {trials}", f"ask for {len(starts)}"
        )
    factory = partial(_make_objective, config, context.layout)
    return run_study(
        plan, trials, workers, factory, starts, context.bar, context.notice, partial(on_finished, plan.name)
    )


def ensemble_plan(config: Config, layout: Layout) -> StudyPlan:
    """What the study is.

    Args:
        config: of the profile.
        layout: where files are.

    Returns:
        The plan.

    Raises:
        InputError: a file of an earlier stage is missing, or the profile has no ensemble.
    """
    settings, search, tuning = config.study, config.study.ensemble, config.study.tuning
    folders = [layout.model(word) for word in ("score", "extractor", "fid_network")]
    members = _plain(config).members
    inputs = [folder / name for folder in (*folders, *map(layout.discriminator, members)) for name in WEIGHT_FILES]
    inputs += [layout.real / "train.npz", *(layout.discriminator(name) / "test_logits.npz" for name in members)]
    told = {
        "search": search.model_dump(),
        "tuning": tuning.model_dump(),
        "threads": settings.threads,
        "runtime": [config.runtime.device, config.runtime.sampling_precision],
        "sampler": config.sampler.model_dump(),
        "window": [config.guided.time_min, config.guided.time_max],
        "plain": _plain(config).model_dump(),
        "cond": config.cond,
    }
    if missing := [path for path in inputs if not path.is_file()]:
        raise InputError(f"file {missing[0]}", "no such file", "run `dvc repro` before the study")
    return StudyPlan(
        name=f"{layout.profile}-{STUDY}",
        journal=layout.study / f"{STUDY}.log",
        storage=settings.storage,
        seed=settings.seed,
        directions=("minimize",),
        objective=f"FID ({config.fid_network.name}) of {tuning.images} guided tuning samples",
        determinants={
            "settings": fingerprint(told),
            "inputs": fingerprint({str(path.relative_to(layout.root)): sha256(path) for path in inputs}),
            "code": closure_digest("studies.ensemble"),
        },
        pruner=PercentilePruner(search.pruner.percentile, n_startup_trials=search.pruner.startup_trials),
    )


def starting_points(config: Config) -> list[Enqueued]:
    """What every study tries first: the plain mean by each rule, and each member alone.

    Args:
        config: of the profile.

    Returns:
        Trials with the guidance weights and the window of `ensemble_probability`.
    """
    plain, search = _plain(config), config.study.ensemble
    window = plain.window or (config.guided.time_min, config.guided.time_max)
    common = {
        "rule": plain.rule,
        "w1": plain.w1,
        "w2": plain.w2,
        "time_min": window[0],
        "time_max": window[1],
        "boosting": plain.boosting,
    }
    equal = {_share(name): 0.5 for name in plain.members}
    others = [rule for rule in search.rules if rule != plain.rule]
    alone = [
        Enqueued(common | {_share(one): LEAST_U if one == name else 1.0 for one in plain.members}, {GRID: name})
        for name in plain.members
    ]
    return [
        Enqueued(common | equal, {GRID: PLAIN_MEAN}),
        *alone,
        *(Enqueued(common | equal | {"rule": rule}, {GRID: f"{PLAIN_MEAN}, {rule}"}) for rule in others),
    ]


def variant_of(params: Mapping[str, Any], members: Sequence[str]) -> Variant:
    """The variant that a trial stands for, as it is sampled and promoted.

    The weights are normalised -log u: uniform u make every point of the simplex equally likely. They are rounded, and
    members without weight are left out: they would be evaluated for nothing.

    Args:
        params: of the trial.
        members: whose weights are searched.

    Returns:
        A row for `guided.variants`.

    Source: Devroye 1986, Chapter 11 (uniform spacings as normalised exponentials).
    """
    spread = [-math.log(params[_share(name)]) for name in members]
    if not any(spread):
        spread = [1.0] * len(members)
    weights = [round(part / sum(spread), DIGITS) for part in spread]
    weights[int(np.argmax(weights))] += 1 - sum(weights)
    kept = {name: round(weight, DIGITS) for name, weight in zip(members, weights, strict=True) if round(weight, DIGITS)}
    return Variant(
        members=tuple(kept),
        rule=params["rule"],
        weights="equal" if len(set(spread)) == 1 else tuple(kept.values()),
        w1=max(round(params["w1"], DIGITS), 10**-DIGITS),  # boosting acts on w1, and something must guide
        w2=round(params["w2"], DIGITS),
        boosting=params["boosting"],
        window=(float(f"{params['time_min']:.{DIGITS}g}"), float(f"{params['time_max']:.{DIGITS}g}")),
    )


def _make_objective(config: Config, layout: Layout) -> Objective:
    members = _plain(config).members
    tuning = TuningRange(config, quiet(layout))
    heads = {name: tuning.head(name) for name in members}
    tested = [
        read_npz(layout.discriminator(name) / "test_logits.npz", ["logits", "labels"], "discriminator")
        for name in members
    ]
    logits = {name: torch.from_numpy(one["logits"]).double() for name, one in zip(members, tested, strict=True)}
    labels = tested[0]["labels"]

    def objective(trial: optuna.Trial) -> float:
        variant = variant_of(_suggest(trial, config), members)
        shares = zip(variant.members, simplex_weights(variant.weights, len(variant.members)), strict=True)
        told = {
            "variant": variant.model_dump(mode="json", exclude_none=True),
            "weights": ", ".join(
                str(path.relative_to(layout.root)) for path in map(layout.discriminator, variant.members)
            ),
            **{f"weight_{name}": weight for name, weight in shares},
            **_test_scores(variant, logits, labels),
        }
        for key, value in told.items():
            trial.set_user_attr(key, value)
        batches: list[np.ndarray] = []
        for number, batch in enumerate(tuning.features(variant, [heads[name] for name in variant.members])):
            batches.append(batch)
            trial.report(tuning.distance(batches), number)
            # What every study begins with is wanted to the end, to be compared with.
            if GRID not in trial.user_attrs and trial.should_prune():
                raise optuna.TrialPruned
        return tuning.distance(batches)

    return objective


def _suggest(trial: optuna.Trial, config: Config) -> dict[str, Any]:
    search, members = config.study.ensemble, _plain(config).members
    return {
        **{_share(name): trial.suggest_float(_share(name), LEAST_U, 1.0) for name in members},
        "rule": trial.suggest_categorical("rule", search.rules),
        "w1": trial.suggest_float("w1", *search.w1),
        "w2": trial.suggest_float("w2", *search.w2),
        "time_min": trial.suggest_float("time_min", *search.time_min, log=True),
        "time_max": trial.suggest_float("time_max", *search.time_max),
        "boosting": trial.suggest_categorical("boosting", search.boosting),
    }


def _test_scores(variant: Variant, logits: Mapping[str, torch.Tensor], labels: np.ndarray) -> dict[str, float]:
    """How well the combined discriminator tells test pictures apart: from stored logits, no network runs for it."""
    weights = torch.tensor(simplex_weights(variant.weights, len(variant.members)), dtype=torch.float64)
    log_ratio = RULES[variant.rule](torch.stack([logits[name] for name in variant.members]), weights)
    return {
        "test_bce": binary_cross_entropy(log_ratio, torch.from_numpy(labels).double()).item(),
        "test_auroc": classification_scores(log_ratio.numpy(), labels).auroc,
    }


def _plain(config: Config) -> Variant:
    if PLAIN not in config.guided.variants:
        raise InputError(f"variant {PLAIN} in the profile", "none", "add it: its members are what the study weighs")
    return config.guided.variants[PLAIN]


def _share(member: str) -> str:
    return f"u_{member}"
