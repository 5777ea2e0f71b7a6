"""Study `discriminator`: a search by probabilities on validation images, whose best few are compared by samples."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import optuna

from dguide.settings import Config, Layout, Member, Variant, plain, row_of
from dguide.stages.discriminator import member_checkpoints, open_inputs, train_member
from dguide.stages.guided import open_networks
from dguide.studies.common import GuidedSamples, distance_inputs, distance_settings, seconds, write_chart, write_record
from dguide.studies.trials import GRID, Objective, StudyPlan, complete, draw_values
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import ConfigError, DivergenceError
from discriminator_guidance.core.settings import HeadSettings
from discriminator_guidance.metrics.distances import frechet_influence
from discriminator_guidance.networks.adm import MemberLogits
from discriminator_guidance.training.loop import Row

WORD, TUNED = "discriminator", "tuned"
# What is drawn, of the head and of its training, and how; what is in neither of the last two is on a linear scale.
NETWORK = ("model_channels", "num_res_blocks", "dropout")
TRAINING = ("epochs", "learning_rate", "t_min", "importance_sampling", "label_smoothing", "bagging")
DRAWN = ("weight_decay", *NETWORK, *TRAINING)
CHOICES = ("model_channels", "importance_sampling", "bagging")
SCORES = ("validation_loss", "calibration_error")  # of a trial, on validation images
LOGARITHMIC = ("weight_decay", "epochs", "learning_rate", "t_min")


def plan(config: Config, layout: Layout) -> StudyPlan:
    """The search."""
    search = config.studies.discriminator
    return StudyPlan(
        word=WORD,
        objective=f"validation cross entropy + {search.calibration_weight:g} x calibration error",
        settings={
            "search": plain(search, "finalists", "pruner"),
            "discriminator": plain(config.discriminator),
            "variant": plain(_start(config)[1], "published"),
            **distance_settings(config),
        },
        inputs=(*distance_inputs([layout]), layout.fake / "samples.npz"),
        starts=starting_points(config),
    )


def starting_points(config: Config) -> dict[str, dict[str, Any]]:
    """The rows of Table 2, which the search tries first, each trained afresh."""
    search, points = config.studies.discriminator, dict[str, dict[str, Any]]()
    for name in config.variants[config.studies.start].members:
        member = config.members[name]
        settings = {**plain(member), **plain(member.network)}
        settings["weight_decay"] = settings["weight_decay"] or search.weight_decay[0]
        points[name.upper()] = {key: settings[key] for key in DRAWN}
        for key, value in points[name.upper()].items():
            allowed = getattr(search, key)
            if not (value in allowed if key in CHOICES else allowed[0] <= value <= allowed[1]):
                expected = f"study.discriminator.{key} to hold {value} of member {name}"
                raise ConfigError(expected, str(list(allowed)), "widen it: the search begins with these members")
    return points


def suggest(trial: optuna.Trial, config: Config) -> Member:
    """Draw a member."""
    search, (start, _) = config.studies.discriminator, _start(config)
    drawn = draw_values(trial, {key: getattr(search, key) for key in DRAWN}, CHOICES, LOGARITHMIC)
    if drawn["weight_decay"] <= search.weight_decay[0]:
        drawn["weight_decay"] = 0.0
    network = {key: drawn.pop(key) for key in NETWORK}
    fixed: dict[str, Any] = {
        "start": f"models/{config.profile}/extractor",
        "seed": config.studies.seed,
        "checkpoint": "best" if start.checkpoint == "best" else "last",
        "network": HeadSettings(num_head_channels=config.discriminator.network.num_head_channels, **network),
    }
    return replace(start, **drawn, **fixed)


def objective(config: Config, layout: Layout) -> Objective:
    """A trial trains a head and samples with it; networks and images are read once."""
    samples, (start, variant) = GuidedSamples(config, layout), _start(config)
    networks = open_networks(config, layout, replace(variant, members=(), w1=0.0, w2=0.0, boosting=False, window=None))
    inputs = open_inputs(config, layout, start)

    def value_of(row: Row) -> float:
        return row["validation_loss"] + config.studies.discriminator.calibration_weight * row["calibration_error"]

    def loss(trial: optuna.Trial, tracker: Tracker) -> float:
        member = suggest(trial, config)
        checkpoints, epochs = member_checkpoints(inputs, "study-discriminator", member), count(1)

        def report(steps: int, row: Row) -> None:
            tracker.metrics(steps, row)
            trial.report(value_of(row), next(epochs))  # those of its checkpoint come again
            if GRID not in trial.user_attrs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            trained = train_member(inputs, member, checkpoints, report)
        except (optuna.TrialPruned, DivergenceError):
            checkpoints.remove()
            raise
        head, scores = samples.compute.place(trained.network), {key: trained.used[key] for key in SCORES}
        guiding = replace(networks, members=MemberLogits(inputs.extractor, head))
        batches = list(samples.batches(variant, config.studies.tuning, networks=guiding))
        fid, _ = frechet_influence(np.concatenate([batch["features"] for batch in batches]), samples.reference)
        samples.attach(trial, tracker, batches[0]["images"])
        for key, value in {**scores, "fid": fid, "member": row_of(config, member)}.items():
            trial.set_user_attr(key, value)
        tracker.summary({"fid": fid})
        checkpoints.remove()
        return value_of(scores)

    return loss


def write_results(study: optuna.Study, config: Config, layout: Layout) -> dict[str, Any]:
    """Write the record; returns the winner."""
    from optuna.visualization.matplotlib import plot_pareto_front

    trials = complete(study)
    finalists = sorted(trials[: config.studies.discriminator.finalists], key=lambda trial: trial.user_attrs["fid"])
    winner, fids = finalists[0], {trial.user_attrs.get(GRID): trial.user_attrs["fid"] for trial in trials}
    start_fid = fids.get(config.variants[config.studies.start].members[0].upper())
    values = {"fid": winner.user_attrs["fid"], "start_fid": start_fid, "objective": winner.value}
    variant = row_of(config, _start(config)[1])
    record = {
        "finalists": [{"trial": trial.number, "fid": trial.user_attrs["fid"]} for trial in finalists],
        "winner": {"trial": winner.number, "values": values, "params": winner.params},
        "rows": {"members": {TUNED: winner.user_attrs["member"]}, "variants": {TUNED: variant}},
    }
    write_record(study, config, layout, record)
    pairs = optuna.create_study(directions=["minimize", "minimize"])
    pairs.add_trials([optuna.create_trial(values=(seconds(trial), trial.user_attrs["fid"])) for trial in trials])
    with warnings.catch_warnings(action="ignore"):
        axes = plot_pareto_front(pairs, target_names=["seconds of the trial", f"FID ({config.fid_network.name})"])
    write_chart(axes, layout.study / f"{WORD}_pareto.png", config)
    return {"winner": winner.number, **values}


def _start(config: Config) -> tuple[Member, Variant]:
    """What a trial keeps where the search draws nothing: the first member of `study.start`, and how it guides."""
    start, needs = config.variants[config.studies.start], f"{WORD}/{TUNED}"
    guides = replace(start, needs=needs, members=(TUNED,), rule="mean_probability", weights="equal")
    return config.members[start.members[0]], guides
