"""Study `discriminator`: a search by probabilities on validation images, whose best few are compared by samples."""

from dataclasses import replace
from itertools import count
from typing import Any

import optuna
from optuna.pruners import MedianPruner

from dguide.settings import Config, Layout, Member, Variant, plain, row_of
from dguide.stages.discriminator import DiscriminatorInputs, train_member
from dguide.stages.guided import open_networks
from dguide.studies.study import GRID, GuidedSamples, Objective, StudyPlan, draw_values
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.metrics.distances import frechet_influence
from discriminator_guidance.networks.adm import MemberLogits
from discriminator_guidance.training.loop import Row

TUNED = "tuned"
# What is drawn, of the head and of its training, and how; what is in neither of the last two is on a linear scale.
NETWORK = ("model_channels", "num_res_blocks", "dropout")
TRAINING = ("epochs", "learning_rate", "t_min", "importance_sampling", "label_smoothing", "bagging")
DRAWN = ("weight_decay", *NETWORK, *TRAINING)
CHOICES = ("model_channels", "importance_sampling", "bagging")
LOGARITHMIC = ("weight_decay", "epochs", "learning_rate", "t_min")


def plan(config: Config) -> StudyPlan:
    """The search, which tries the members of `study.start` first, each trained afresh."""
    search, points = config.studies.discriminator, dict[str, dict[str, Any]]()
    drawn, (start, _) = _drawn(config), _start(config)
    for name in config.variants[config.studies.start].members:
        member = config.members[name]
        kept = [key for key in ("kind", "epochs", "steps") if key not in drawn]
        if odd := [key for key in kept if getattr(member, key) != getattr(start, key)]:
            raise ConfigError(f"members of study.start differ in {odd[0]}: {name}", "choose another study.start")
        settings = {**plain(member), **plain(member.network)}
        settings["weight_decay"] = settings["weight_decay"] or search.weight_decay[0]
        point = {key: settings[key] for key in drawn}
        if point not in points.values():
            points[name.upper()] = point
        for key, value in point.items():
            allowed = getattr(search, key)
            if not (value in allowed if key in CHOICES else value is not None and allowed[0] <= value <= allowed[1]):
                problem = f"study.discriminator.{key} is {list(allowed)} and leaves out {value} of member {name}"
                raise ConfigError(problem, "change either, or choose another study.start")
    title = f"validation cross entropy + {search.calibration_weight:g} x calibration error"
    # In the first two rows of its curve no trial is given up.
    return StudyPlan("discriminator", title, points, MedianPruner(n_startup_trials=8, n_warmup_steps=3, n_min_trials=4))


def suggest(trial: optuna.Trial, config: Config) -> Member:
    """Draw a member."""
    search, (start, _) = config.studies.discriminator, _start(config)
    drawn = draw_values(trial, search, _drawn(config), CHOICES, LOGARITHMIC)
    if drawn["weight_decay"] <= search.weight_decay[0]:
        drawn["weight_decay"] = 0.0
    network = {key: drawn.pop(key) for key in NETWORK if key in drawn}
    drawn |= {"start": f"models/{config.profile}/extractor", "seed": config.studies.seed}
    drawn["checkpoint"] = "best" if start.checkpoint == "best" else "last"
    return replace(start, **drawn, network=replace(config.discriminator.network, **network), published=None)


def objective(config: Config, layout: Layout) -> Objective:
    """A trial trains a discriminator in the first replicate and samples with it; other networks are read once."""
    layout, (start, variant) = layout.replicates(config.replicates)[0], _start(config)
    samples, inputs = GuidedSamples(config, layout), DiscriminatorInputs(config, layout, start)
    networks = open_networks(config, layout, replace(variant, members=(), w1=0.0, w2=0.0, boosting=False))

    def value_of(row: Row) -> float:
        return row["validation_loss"] + config.studies.discriminator.calibration_weight * row["calibration_error"]

    def loss(trial: optuna.Trial, tracker: Tracker) -> float:
        member, numbers = suggest(trial, config), count(1)

        def report(steps: int, row: Row) -> None:
            tracker.metrics(steps, row)
            trial.report(value_of(row), next(numbers))
            if GRID not in trial.user_attrs and trial.should_prune():
                raise optuna.TrialPruned

        trained = train_member(inputs, member, None, False, report)
        guiding = replace(networks, members=MemberLogits(inputs.extractor, samples.compute.place(trained.network)))
        *_, features = samples.features(variant, config.studies.tuning, guiding)
        scores = {key: trained.used[key] for key in ("validation_loss", "calibration_error")}
        scores["fid"], _ = frechet_influence(features, samples.reference)
        rows = {"members": {TUNED: row_of(config, member)}, "variants": {TUNED: row_of(config, variant)}}
        for key, value in {**scores, "rows": rows}.items():
            trial.set_user_attr(key, value)
        tracker.summary(scores)
        return value_of(scores)

    return loss


def _drawn(config: Config) -> list[str]:
    """What is drawn: no epochs where members count steps, which they keep, and of a whole network the width alone."""
    start, _ = _start(config)
    kept = ["epochs"] * (start.epochs is None) + [*NETWORK[1:]] * (start.kind == "whole")
    return [key for key in DRAWN if key not in kept]


def _start(config: Config) -> tuple[Member, Variant]:
    """What a trial keeps where the search draws nothing: the first member of `study.start`, and how it guides."""
    start, needs = config.variants[config.studies.start], f"discriminator/{TUNED}"
    guides = replace(start, needs=needs, members=(TUNED,), rule="mean_probability", weights="equal", published=None)
    return config.members[start.members[0]], guides
