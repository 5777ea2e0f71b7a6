"""What a trial of study `discriminator` is: a row of Table 2, its training, and the quality of its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
from torch import Tensor, nn

from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.config import HeadNetwork, MemberDifferences, TrainedMember
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.evaluation.classification import (
    calibration_bins,
    cross_entropy_by_time,
    expected_calibration_error,
)
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.planning.tracing import BATCH, traced
from discriminator_guidance.stages.chain import of_member, trained_row
from discriminator_guidance.stages.context import partial_work
from discriminator_guidance.stages.discriminator import open_bench
from discriminator_guidance.stages.heads import Bench, member_settings, train_rows
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.tuning_range import quiet
from discriminator_guidance.training.discriminator import train_discriminator
from discriminator_guidance.training.grid import GridFeatures, grid_logits
from discriminator_guidance.training.loop import Row
from discriminator_guidance.training.pairs import scaled

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Discriminator, DiscriminatorStudy

DIGITS = 3  # significant ones of what is tried, so that what is promoted is what was tried
NAME = "trial"  # of the member that a trial trains
STUDY = "discriminator"
GRID = "grid"  # user attribute of the trials that every study begins with: D0 of row d0
CHOICES = ("importance_sampling", "model_channels", "bagging")  # parameters without an order


@dataclass(frozen=True)
class TrialHead:
    """A head that a trial trained.

    Args:
        head: with the weights to use, in evaluation mode.
        scores: of these weights on the validation grid, as `grid_scores` gives them.
        gflop: what its training cost, in 10^9 floating-point operations.
    """

    head: EncoderUNet
    scores: Row
    gflop: float


def suggest(trial: optuna.Trial, search: DiscriminatorStudy) -> dict[str, Any]:
    """Ask a sampler for everything that is searched.

    Args:
        trial: asked.
        search: ranges and choices.

    Returns:
        Parameters by name, in units of Table 2.
    """
    return {
        "epochs": trial.suggest_int("epochs", *search.epochs, log=True),
        "learning_rate": trial.suggest_float("learning_rate", *search.learning_rate, log=True),
        "weight_decay": trial.suggest_float("weight_decay", *search.weight_decay, log=True),
        "t_min": trial.suggest_float("t_min", *search.t_min, log=True),
        "importance_sampling": trial.suggest_categorical("importance_sampling", search.importance_sampling),
        "model_channels": trial.suggest_categorical("model_channels", search.model_channels),
        "num_res_blocks": trial.suggest_int("num_res_blocks", *search.num_res_blocks),
        "dropout": trial.suggest_float("dropout", *search.dropout),
        "label_smoothing": trial.suggest_float("label_smoothing", *search.label_smoothing),
        "bagging": trial.suggest_categorical("bagging", search.bagging),
    }


def params_of(settings: Discriminator, search: DiscriminatorStudy, member: str) -> dict[str, Any]:
    """The parameters that stand for a row of Table 2.

    Args:
        settings: the section `discriminator`.
        search: ranges and choices.
        member: name of a trained row.

    Returns:
        Parameters by name; a weight decay of 0 is the low end of its range.
    """
    row, network = trained_row(settings, member), of_member(settings, member, "network")
    return {
        "epochs": row.epochs,
        "learning_rate": row.learning_rate,
        "weight_decay": row.weight_decay or search.weight_decay[0],
        "t_min": row.t_min,
        "importance_sampling": of_member(settings, member, "importance_sampling"),
        "model_channels": network.model_channels,
        "num_res_blocks": network.num_res_blocks,
        "dropout": network.dropout,
        "label_smoothing": of_member(settings, member, "label_smoothing"),
        "bagging": of_member(settings, member, "bagging"),
    }


def member_of(
    params: Mapping[str, Any], settings: Discriminator, search: DiscriminatorStudy, seed: int
) -> TrainedMember:
    """The row that a trial stands for, as it is trained and promoted.

    Args:
        params: of the trial.
        settings: the section `discriminator`; the row differs from it in no more than it has to.
        search: whose low end of weight decay stands for 0.
        seed: of the training.

    Returns:
        A row for `discriminator.members`. It starts afresh, whatever the section says: another start would tie its
        width to that of other members. Of a section that uses the weights of a fixed epoch it uses the last ones.
    """
    network = HeadNetwork(
        model_channels=params["model_channels"],
        num_res_blocks=params["num_res_blocks"],
        num_head_channels=settings.network.num_head_channels,
        dropout=round(params["dropout"], DIGITS),
    )
    wanted = {
        "init": "fresh",
        "importance_sampling": params["importance_sampling"],
        "checkpoint": "best" if settings.checkpoint == "best" else "last",
        "label_smoothing": round(params["label_smoothing"], DIGITS),
        "bagging": params["bagging"],
        "network": network,
    }
    decay = _rounded(params["weight_decay"])
    return TrainedMember(
        seed=seed,
        epochs=params["epochs"],
        learning_rate=_rounded(params["learning_rate"]),
        weight_decay=0.0 if decay <= search.weight_decay[0] else decay,
        t_min=_rounded(params["t_min"]),
        differs=MemberDifferences(**{key: value for key, value in wanted.items() if value != getattr(settings, key)}),
    )


def open_trial_bench(config: Config, layout: Layout) -> Bench:
    """Read what all trials of a worker are trained on.

    Args:
        config: of the profile.
        layout: where files are.

    Returns:
        The bench of stage `discriminator`, with the threads of a worker.
    """
    runtime = config.runtime.model_copy(update={"threads": config.study.threads})
    return open_bench(config.model_copy(update={"runtime": runtime}), quiet(layout))


def weights_folder(layout: Layout, number: int) -> Path:
    """Where the head of a trial is kept.

    Args:
        layout: where files are.
        number: of the trial.

    Returns:
        The folder.
    """
    return layout.study / STUDY / f"{number:04d}"


def train_trial(bench: Bench, row: TrainedMember, on_epoch: Callable[[int, Row], None]) -> TrialHead:
    """Train a row exactly as stage `discriminator` does.

    Args:
        bench: pictures, split, extractor and validation grid, shared by all trials of a worker.
        row: from `member_of`.
        on_epoch: told the number of each epoch, from 1, and the scores after it; those of a training that goes on
            from a checkpoint again. What it raises ends the training.

    Returns:
        The head, its scores and its cost.

    Raises:
        DivergenceError: a loss is not finite.
    """
    settings = bench.settings.model_copy(update={"members": {NAME: row}})
    own, told = replace(bench, settings=settings), member_settings(settings, NAME)
    validation, compute = bench.validation, bench.compute
    torch.manual_seed(told.seed)
    head = build_head(
        feature_shape=bench.feature_shape,
        condition=bench.pairs.classes is not None,
        **of_member(settings, NAME, "network").model_dump(),
    ).to(compute.device)
    rows = train_rows(own, NAME)
    gflop = told.epochs * len(rows) * _step_flops(bench, head) / 1e9
    determinants = {"discriminator": settings.model_dump(), "frozen_precision": bench.frozen_precision}
    work = partial_work(bench.context, "discriminator", "study", bench.inputs, determinants, compute)
    checkpoints = _WithScores(work, on_epoch)

    validated: list[Tensor] = []  # of the pass that the training makes after each epoch anyway

    def overhear(module: nn.Module, given: object, logits: Tensor) -> None:
        if not module.training:
            validated.append(logits.view(-1).float())

    def after_epoch(epoch: int, losses: Row) -> None:
        scores = grid_scores(torch.cat(validated), validation)
        validated.clear()
        checkpoints.tell(epoch, scores)

    hook = head.register_forward_hook(overhear)
    try:
        kept, _ = train_discriminator(
            bench.features,
            head,
            bench.pairs.images,
            bench.pairs.labels,
            bench.pairs.classes,
            rows,
            validation,
            told,
            compute,
            bench.at_once,
            checkpoints,
            lambda epochs: None,
            after_epoch,
        )
    except (optuna.TrialPruned, DivergenceError):
        work.remove()
        raise
    finally:
        hook.remove()
    head.load_state_dict(kept)
    work.remove()
    return TrialHead(head.eval(), grid_scores(grid_logits(head, validation, compute), validation), gflop)


def grid_scores(logits: Tensor, grid: GridFeatures) -> Row:
    """Cross entropy and calibration error, averaged over the noise levels so that each counts alike.

    Args:
        logits: (P,) on the grid.
        grid: validation or test pictures at the times of the common grid.

    Returns:
        "bce" in nats and "calibration_error" in [0, 1].
    """
    found, labels = logits.cpu().numpy(), grid.labels.cpu().numpy().astype(np.int64)
    entropies = cross_entropy_by_time(found, labels, grid.time)
    errors = expected_calibration_error(calibration_bins(found, labels, grid.time))
    return {"bce": float(np.mean([*entropies.values()])), "calibration_error": float(np.mean([*errors.values()]))}


class _WithScores:
    """Checkpoints that hold the scores of all epochs too, so that a training that goes on can tell them again."""

    def __init__(self, work: PartialWork, on_epoch: Callable[[int, Row], None]) -> None:
        self._work, self._on_epoch = work, on_epoch
        self._scores: list[Row] = []

    def tell(self, epoch: int, scores: Row) -> None:
        self._scores.append(scores)
        self._on_epoch(epoch, scores)

    def load(self) -> dict[str, Any] | None:
        state = self._work.load()
        if state is not None:
            for place, scores in enumerate(state["scores"]):
                self.tell(place + 1, scores)
        return state

    def save(self, state: dict[str, Any]) -> None:
        self._work.save({**state, "scores": self._scores})


def _step_flops(bench: Bench, head: EncoderUNet) -> float:
    """Operations that one picture costs in training: its features, and the head with its gradients."""
    pictures = scaled(bench.pairs.images[:BATCH])
    t = torch.full((len(pictures),), 0.5, device=pictures.device)
    classes = () if bench.pairs.classes is None else (bench.pairs.classes[:BATCH],)

    def step() -> object:
        frozen = bench.features(pictures, t)
        with bench.compute.autocast():
            head(frozen, t, *classes).sum().backward()
        return frozen

    flops = traced(step, len(pictures)).flops
    head.zero_grad(set_to_none=True)
    return flops


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
