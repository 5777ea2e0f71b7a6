"""Training of a discriminator head, which tells real from fake by the features of a frozen extractor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.noise import generator
from discriminator_guidance.training import loop
from discriminator_guidance.training.grid import Features, GridFeatures, accuracy, grid_features
from discriminator_guidance.training.loop import Batch, Checkpoints, Report, Row, State
from discriminator_guidance.training.pairs import (
    Pairs,
    Split,
    bootstrap_rows,
    draw_noised,
    permuted_labels,
    split_pairs,
)
from discriminator_guidance.training.score_matching import ScoreMatching

GRID_PAIRS = 8192  # of image and VP time, about as many as a validation needs


@dataclass(frozen=True)
class DiscriminatorSettings:
    """How a head is trained and tested: a row of Table 2 after the profile's factors, and what rows have in common."""

    seed: int
    epochs: int  # 0 leaves the head as it is
    learning_rate: float
    weight_decay: float
    t_min: float  # smallest VP time
    batch_size: int
    importance_sampling: bool  # False: times are uniform in [t_min, 1]
    reshuffle: bool  # False: every epoch repeats the batches of the first, as in the reproduction
    flip: bool
    label_smoothing: float  # distance of the targets from 0 and 1
    bagging: float | None  # images drawn with replacement, relative to their number; None: each image once
    checkpoint: Literal["last", "best"] | int  # the epoch whose weights are used; best: smallest validation loss
    checkpoint_every: int  # epochs
    ema_decay: float | None = None  # of the average that is validated and used; None: the head itself
    decay_fraction: float = 0.0  # the learning rate falls linearly to 0 over this last share of all steps
    shift: int = 0  # pixels
    permute_labels: bool = False  # a null discriminator
    objective: Literal["cross_entropy", "score_matching", "both"] = "cross_entropy"
    matching: ScoreMatching | None = None  # what the other objectives than cross_entropy need
    precision: str = "float32"  # float32 | tf32 | bfloat16, see `networks.precision.Compute`
    images: int | None = None  # real and fake ones that are used, of each kind as many; None: all
    train_share: float = 0.8  # of the images; members of an ensemble have one split
    validation_share: float = 0.1  # and the rest tests
    split_seed: int = 0
    grid_times: int = 8  # VP times of validation and test
    grid_times_per_image: int | None = None  # how many of them each image sees; None: few enough for 8,192 pairs

    def split(self, real: int, fake: int) -> Split:
        """The split of so many real and fake images."""
        return split_pairs(real, fake, self.train_share, self.validation_share, self.split_seed, self.images)

    def grid(self, features: Features, pairs: Pairs, rows: np.ndarray) -> GridFeatures:
        """Features of images on the common grid of VP times."""
        each = self.grid_times_per_image or max(1, min(self.grid_times, GRID_PAIRS // len(rows)))
        return grid_features(features, pairs, rows, self.grid_times, each, self.split_seed)

    def rows(self, split: Split) -> np.ndarray:
        """The training images of an epoch, as rows of real ++ fake."""
        return split.train if self.bagging is None else bootstrap_rows(split.train, self.bagging, self.seed)


def fit_head(
    head: nn.Module,
    features: Features,
    pairs: Pairs,
    validate: Callable[[nn.Module], Row],
    settings: DiscriminatorSettings,
    compute: Compute,
    checkpoints: Checkpoints | None = None,
    report: Report | None = None,
) -> tuple[State, list[Row]]:
    """Minimize the binary cross-entropy of d(x_vp, t) over importance-sampled VP times (Kim et al. 2023, Eq. 4).

    Score matching replaces the cross-entropy, or is added to it, where `settings.objective` asks for it.
    `validate` gives the columns of the curve that describe a head after an epoch, `validation_loss` among them, e.g.
    `grid.validate`. Returns the weights to use, as `settings.checkpoint` chooses them, and the training curve. With
    `settings.ema_decay` both are those of the average; the head itself always ends with its own weights of the last
    epoch. A resumed run reports the rows of its checkpoint again.

    *Deviation:* several processes, see `loop.train`.
    """
    matching = settings.matching
    assert (matching is None) == (settings.objective == "cross_entropy"), "matching is for the other objectives"
    optimizer = torch.optim.Adam(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    run = loop.Training(head, optimizer, settings.ema_decay, "epoch", checkpoints, report)
    run.kept = run.kept or {0: loop.copied(head)}
    pairs = permuted_labels(pairs, settings.seed) if settings.permute_labels else pairs
    batches = -(-len(settings.rows(pairs.split)) // settings.batch_size)

    def logit(frozen: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        with compute.autocast():
            found: Tensor = head(frozen, t, *condition)
        return found.view(-1).float()

    def loss_of(batch: Batch, matched: Batch) -> tuple[Tensor, Row]:
        frozen, t, target, *condition = batch
        logits = logit(frozen, t, *condition)
        smoothed = target + settings.label_smoothing * (1 - 2 * target)
        loss = binary_cross_entropy(logits, smoothed)
        if matching is not None:
            matching_loss = matching.loss(logit, *matched)
            added = settings.objective == "both"
            loss = loss + matching_loss if added else matching_loss
        return loss, {"accuracy": accuracy(logits.detach(), target)}

    for epoch in range(run.done + 1, settings.epochs + 1):
        head.train()
        train_loss = train_accuracy = 0.0
        drawn = _batches(features, pairs, settings, epoch - 1)
        for number, (batch, matched, weight, share) in enumerate(drawn):
            step, steps = (epoch - 1) * batches + number, settings.epochs * batches
            run.set_rate(settings.learning_rate * loop.decayed(step, steps, settings.decay_fraction))
            loop.seed_dropout(settings.seed, f"dropout {epoch - 1}", number)
            where = f"in epoch {epoch}, batch {number + 1}"
            row = run.step(partial(loss_of, matched=matched), batch, weight, step, where)
            train_loss += row["loss"] * share
            train_accuracy += row["accuracy"] * share
        means = {"train_loss": train_loss, "train_accuracy": train_accuracy, **validate(run.used)}
        loop.require_finite(f"in epoch {epoch}", validation_loss=means["validation_loss"])
        run.log(epoch, means)
        if used_epoch(run.history, settings.checkpoint) == epoch:
            run.kept = {epoch: loop.copied(run.used)}
        if epoch % settings.checkpoint_every == 0:
            run.save()
    (kept,) = run.kept.values()
    return kept, run.history


def used_epoch(history: list[Row], checkpoint: Literal["last", "best"] | int) -> int:
    """The epoch, counted from 1, whose weights are the ones to use after those in the history."""
    best = min(history, key=lambda row: row["validation_loss"])
    return {"last": len(history), "best": int(best["epoch"])}.get(str(checkpoint)) or int(checkpoint)


def _batches(
    features: Features, pairs: Pairs, settings: DiscriminatorSettings, epoch: int
) -> Iterator[tuple[Batch, Batch, float, float]]:
    """This process's part of each batch of an epoch, its weight in the batch, and the batch's share of the epoch.

    The part has two halves: images to classify, and as many real ones to match scores on, if `settings` ask for it.
    """
    device = pairs.images.device
    shuffle = generator(settings.seed, "order", epoch if settings.reshuffle else 0, 0)
    chosen = settings.rows(pairs.split)
    real = chosen[pairs.labels.cpu().numpy()[chosen] == 1]
    order = shuffle.permutation(chosen)
    for number, start in enumerate(range(0, len(order), settings.batch_size)):
        rows = torch.from_numpy(order[start : start + settings.batch_size]).to(device)
        rng = generator(settings.seed, "batch", epoch, number)
        uniform = 0.0 if settings.importance_sampling else 1.0
        x_vp, t = draw_noised(pairs.images[rows], rng, settings.t_min, uniform, settings.flip, settings.shift)
        own, weight = loop.own_part(len(rows))
        with torch.no_grad():
            frozen = features(x_vp[own], t[own])
        classes = () if pairs.classes is None else (pairs.classes[rows[own]],)
        matched: Batch = ()
        if settings.matching is not None:
            rng = generator(settings.seed, "matching", epoch, number)
            every = settings.matching.draw(pairs, rng.choice(real, len(rows)), rng, settings.t_min)
            matched = tuple(part[own] for part in every)
        yield (frozen, t[own], pairs.labels[rows[own]], *classes), matched, weight, len(rows) / len(order)
