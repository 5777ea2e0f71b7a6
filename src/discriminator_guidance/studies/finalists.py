"""The best trials of study `discriminator` by what they are for: the distance of the samples that they guide.

Each finalist is one trial of a study of its own, with two values: distance, and what its training cost. Samples are
drawn on the tuning range with the guidance of variant `d0`, so that finalists differ in the discriminator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.files import fingerprint, sha256
from discriminator_guidance.artifacts.weights import WEIGHT_FILES, load_weights
from discriminator_guidance.config import Variant
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.stages.context import Context
from discriminator_guidance.stages.fitting import build_fitting
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.storage import StudyPlan
from discriminator_guidance.studies.trial_heads import GRID, STUDY, suggest, weights_folder
from discriminator_guidance.studies.tuning_range import TuningRange, quiet
from discriminator_guidance.studies.workers import Enqueued, Objective, run_study

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

OnTrial = Callable[[str, FrozenTrial], None]

FINALISTS = f"{STUDY}_finalists"
SEARCHED = "searched"  # user attribute: number of the trial of the search
START = "d0"  # whose guidance is used, and whose row is always judged, to be compared with


def judge(search: optuna.Study, config: Config, context: Context, workers: int, on_finished: OnTrial) -> optuna.Study:
    """Judge the finalists that no earlier call has judged.

    Args:
        search: study `discriminator`.
        config: of the profile.
        context: surroundings.
        workers: processes.
        on_finished: told the study's name and each trial that ends, once.

    Returns:
        The study of the finalists; those of earlier calls stay in it.

    Raises:
        ConfigError: settings have changed since the first of them were judged.
        InputError: the pipeline has not made what is needed.
    """
    plan = finalists_plan(config, context.layout)
    wanted = [
        Enqueued(trial.params, {SEARCHED: trial.number, "gflop": trial.user_attrs["gflop"], **_tag(trial)})
        for trial in chosen(search, config.study.discriminator.finalists)
    ]
    factory = partial(_make_objective, config, context.layout)
    return run_study(plan, None, workers, factory, wanted, context.bar, context.notice, partial(on_finished, plan.name))


def chosen(search: optuna.Study, count: int) -> list[FrozenTrial]:
    """The best trials of a search, and the one of row d0 if it is not among them.

    Args:
        search: study `discriminator`.
        count: how many best ones.

    Returns:
        Complete trials, by value.
    """
    complete = sorted(
        search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=lambda t: (t.value, t.number)
    )
    return [t for place, t in enumerate(complete) if place < count or t.user_attrs.get(GRID) == START.upper()]


def finalists_plan(config: Config, layout: Layout) -> StudyPlan:
    """What the study of the finalists is.

    Args:
        config: of the profile.
        layout: where files are.

    Returns:
        The plan.

    Raises:
        InputError: a file of an earlier stage is missing, or the profile has no variant d0.
    """
    settings, tuning = config.study, config.study.tuning
    folders = [layout.model(word) for word in ("score", "extractor", "fid_network")]
    inputs = [folder / name for folder in folders for name in WEIGHT_FILES] + [layout.real / "train.npz"]
    if missing := [path for path in inputs if not path.is_file()]:
        raise InputError(f"file {missing[0]}", "no such file", "run `dvc repro` before the study")
    told = {
        "guidance": guidance(config),
        "tuning": tuning.model_dump(),
        "threads": settings.threads,
        "runtime": [config.runtime.device, config.runtime.sampling_precision],
        "sampler": config.sampler.model_dump(),
        "window": [config.guided.time_min, config.guided.time_max],
        "cond": config.cond,
    }
    return StudyPlan(
        name=f"{layout.profile}-{FINALISTS}",
        journal=layout.study / f"{FINALISTS}.log",
        storage=settings.storage,
        seed=settings.seed,
        directions=("minimize", "minimize"),
        objective=f"FID ({config.fid_network.name}) of {tuning.images} guided tuning samples; GFLOP of training",
        determinants={
            "settings": fingerprint(told),
            "inputs": fingerprint({str(path.relative_to(layout.root)): sha256(path) for path in inputs}),
            "code": closure_digest("studies.tuning_range"),
        },
    )


def guidance(config: Config) -> dict[str, Any]:
    """How the finalists guide.

    Args:
        config: of the profile.

    Returns:
        w1, w2, boosting and, where it has one, window of variant `d0`.

    Raises:
        InputError: the profile has no such variant.
    """
    if START not in config.guided.variants:
        raise InputError(f"variant {START} in the profile", "none", "add it: its guidance is that of the finalists")
    row = config.guided.variants[START].model_dump(mode="json", exclude_none=True)
    return {key: row[key] for key in ("w1", "w2", "boosting", "window") if key in row}


def pareto_front(points: Sequence[Mapping[str, float]]) -> list[int]:
    """Which finalists are not beaten in both distance and cost.

    Args:
        points: "fid" and "gflop" of each.

    Returns:
        Places of those to which no other is at least equal in both and better in one, ascending.
    """

    def beaten(one: Mapping[str, float]) -> bool:
        return any(
            other["fid"] <= one["fid"]
            and other["gflop"] <= one["gflop"]
            and (other["fid"], other["gflop"]) != (one["fid"], one["gflop"])
            for other in points
        )

    return [place for place, one in enumerate(points) if not beaten(one)]


def _make_objective(config: Config, layout: Layout) -> Objective:
    tuning = TuningRange(config, quiet(layout))
    variant = Variant(members=("tuned",), rule="mean_probability", weights="equal", **guidance(config))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        suggest(trial, config.study.discriminator)
        number = trial.user_attrs[SEARCHED]
        folder = weights_folder(layout, number)
        state, arguments = load_weights(folder, "study discriminator")
        head = build_fitting(EncoderUNet, arguments, state, "study discriminator")
        trial.set_user_attr("weights", str((folder / WEIGHT_FILES[0]).relative_to(layout.root)))
        trial.set_user_attr("weights_sha256", sha256(folder / WEIGHT_FILES[0]))
        return tuning.distance([*tuning.features(variant, [tuning.ready(head)])]), trial.user_attrs["gflop"]

    return objective


def _tag(trial: FrozenTrial) -> dict[str, str]:
    return {GRID: trial.user_attrs[GRID]} if GRID in trial.user_attrs else {}
