"""Study `discriminator`: with which settings one discriminator tells real from fake best, and guides best.

All trials are judged by their probabilities on the validation pictures, which is cheap; the best few by the distance of
the samples that they guide, see `finalists`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import PercentilePruner

from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.files import fingerprint, sha256
from discriminator_guidance.artifacts.weights import WEIGHT_FILES, save_weights
from discriminator_guidance.config import TUNED_MEMBER, MemberDifferences
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.stages.context import Context
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.finalists import OnTrial, finalists_plan, judge
from discriminator_guidance.studies.storage import StudyPlan
from discriminator_guidance.studies.trial_heads import (
    CHOICES,
    GRID,
    STUDY,
    member_of,
    open_trial_bench,
    params_of,
    suggest,
    train_trial,
    weights_folder,
)
from discriminator_guidance.studies.workers import Enqueued, Objective, run_study
from discriminator_guidance.training.loop import Row

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Discriminator

LEAST_COMPARED = 4  # trials that came as far as a trial before it may be given up there


def run(
    config: Config, context: Context, trials: int, workers: int, on_finished: OnTrial
) -> tuple[optuna.Study, optuna.Study]:
    """Search until there are a number of trials, and judge the best of them.

    Args:
        config: of the profile.
        context: surroundings.
        trials: how many there shall be, rows of Table 2 and those of earlier calls included.
        workers: processes of `study.threads` threads.
        on_finished: told the study's name and each trial that ends, once.

    Returns:
        The search, and the study of its finalists.

    Raises:
        ConfigError: settings have changed since it was begun, `trials` has no room for the rows of Table 2, or one of
            these lies outside what is searched.
        InputError: the pipeline has not made what is needed.
    """
    starts, plan = starting_points(config), search_plan(config, context.layout)
    finalists_plan(config, context.layout)  # says now what would be missing at the end
    if trials < len(starts):
        raise ConfigError(
            f"room for the {len(starts)} rows of Table 2 every study begins with",
            f"--trials {trials}",
            f"ask for {len(starts)}",
        )
    factory = partial(_make_objective, config, context.layout)
    search = run_study(
        plan, trials, workers, factory, starts, context.bar, context.notice, partial(on_finished, plan.name)
    )
    return search, judge(search, config, context, workers, on_finished)


def search_plan(config: Config, layout: Layout) -> StudyPlan:
    """What the search is.

    Args:
        config: of the profile.
        layout: where files are.

    Returns:
        The plan.

    Raises:
        InputError: a file of an earlier stage is missing.
    """
    settings, ranges = config.study, config.study.discriminator
    inputs = [layout.real / "train.npz", layout.fake / "samples.npz"]
    inputs += [layout.model("extractor") / name for name in WEIGHT_FILES]
    if missing := [path for path in inputs if not path.is_file()]:
        raise InputError(f"file {missing[0]}", "no such file", "run `dvc repro` before the study")
    told = {
        "search": ranges.model_dump(exclude={"finalists"}),
        "discriminator": config.discriminator.model_dump(exclude={"members"}),
        "threads": settings.threads,
        "runtime": config.runtime.model_dump(exclude={"threads"}),
        "cond": config.cond,
    }
    pruner = ranges.pruner
    return StudyPlan(
        name=f"{layout.profile}-{STUDY}",
        journal=layout.study / f"{STUDY}.log",
        storage=settings.storage,
        seed=settings.seed,
        directions=("minimize",),
        objective=f"cross entropy + {ranges.calibration_weight:g} x calibration error on the validation pictures, "
        "averaged over the noise levels",
        determinants={
            "settings": fingerprint(told),
            "inputs": fingerprint({str(path.relative_to(layout.root)): sha256(path) for path in inputs}),
            "code": closure_digest("studies.trial_heads"),
        },
        pruner=PercentilePruner(
            pruner.percentile,
            n_startup_trials=pruner.startup_trials,
            n_warmup_steps=pruner.warmup_epochs,
            n_min_trials=LEAST_COMPARED,
        ),
    )


def starting_points(config: Config) -> list[Enqueued]:
    """The rows of Table 2, which every study tries first.

    Args:
        config: of the profile; a member that differs from its section, or that somebody else trained, is no such row.

    Returns:
        Trials tagged D0, D1, ...

    Raises:
        ConfigError: a row lies outside what is searched.
    """
    settings, ranges = config.discriminator, config.study.discriminator
    found = []
    for name in _plain_rows(settings):
        params = params_of(settings, ranges, name)
        for key, value in params.items():
            allowed = getattr(ranges, key)
            if not (value in allowed if key in CHOICES else allowed[0] <= value <= allowed[1]):
                raise ConfigError(
                    f"study.discriminator.{key} to hold {value} of discriminator member {name}",
                    str(list(allowed)),
                    "widen it: every study begins with the rows of Table 2",
                )
        found.append(Enqueued(params, {GRID: name.upper()}))
    return found


def _plain_rows(settings: Discriminator) -> list[str]:
    rows = {name: row for name, row in settings.members.items() if name != TUNED_MEMBER and not hasattr(row, "path")}
    return [name for name, row in rows.items() if getattr(row, "differs", None) == MemberDifferences()]


def _make_objective(config: Config, layout: Layout) -> Objective:
    ranges, bench = config.study.discriminator, open_trial_bench(config, layout)

    def objective(trial: optuna.Trial) -> float:
        row = member_of(suggest(trial, ranges), config.discriminator, ranges, config.study.seed)
        trial.set_user_attr("member", row.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        seen: list[Row] = []

        def value_of(scores: Row) -> float:
            return scores["bce"] + ranges.calibration_weight * scores["calibration_error"]

        def after_epoch(epoch: int, scores: Row) -> None:
            seen.append(scores)
            trial.report(value_of(scores), epoch)
            # Rows of Table 2 are wanted to the end, to be compared with.
            if GRID not in trial.user_attrs and trial.should_prune():
                _tell(trial, scores | {"epochs_trained": epoch})
                raise optuna.TrialPruned

        trained = train_trial(bench, row, after_epoch)
        folder = weights_folder(layout, trial.number)
        save_weights(folder, trained.head.state_dict(), trained.head.arguments)
        _tell(trial, trained.scores | {"epochs_trained": len(seen), "gflop": trained.gflop})
        trial.set_user_attr("weights", str((folder / WEIGHT_FILES[0]).relative_to(layout.root)))
        trial.set_user_attr("weights_sha256", sha256(folder / WEIGHT_FILES[0]))
        return value_of(trained.scores)

    return objective


def _tell(trial: optuna.Trial, told: Row) -> None:
    for key, value in told.items():
        trial.set_user_attr(key, value)
