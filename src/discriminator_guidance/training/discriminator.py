"""Training of a discriminator from real and generated images, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.ensemble import Denoiser
from discriminator_guidance.errors import InputError
from discriminator_guidance.files import Resumable, save_weights
from discriminator_guidance.image_files import open_images
from discriminator_guidance.images import content_digest, to_uint8
from discriminator_guidance.metrics.classification import CalibrationBin, calibration_bins
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.noise import generator
from discriminator_guidance.runtime import Compute
from discriminator_guidance.sampler import sample
from discriminator_guidance.settings import Checkpoint, DiscriminatorSettings
from discriminator_guidance.training import loop
from discriminator_guidance.training.loop import Batch, Checkpoints, Report, Row, State, copied
from discriminator_guidance.training.pairs import (
    Features,
    GridFeatures,
    Pairs,
    Split,
    accuracy,
    bootstrap_rows,
    draw_noised,
    grid_features,
    grid_logits,
    pair_up,
    permuted_labels,
    scaled,
    split_pairs,
    validate,
)
from discriminator_guidance.training.score_matching import ScoreMatching

GRID_PAIRS = 8192  # of image and VP time, about as many as a validation needs


class HeadTraining(DiscriminatorSettings):
    """Settings of a head with what objectives other than cross_entropy need, and the images that follow from both."""

    matching: ScoreMatching | None = None

    def split_images(self, real: int, fake: int) -> Split:
        """The split of so many real and fake images."""
        split = self.split
        return split_pairs(real, fake, split.train, split.validation, split.seed, self.images)

    def grid(self, features: Features, pairs: Pairs, rows: np.ndarray) -> GridFeatures:
        """Features of images on the common grid of VP times."""
        each = self.grid_times_per_image or max(1, min(self.grid_times, GRID_PAIRS // len(rows)))
        return grid_features(features, pairs, rows, self.grid_times, each, self.split.seed)

    def rows(self, split: Split) -> np.ndarray:
        """The training images of an epoch, as rows of real ++ fake."""
        return split.train if self.bagging is None else bootstrap_rows(split.train, self.bagging, self.seed)


def fit_head(
    head: nn.Module,
    features: Features,
    pairs: Pairs,
    validate: Callable[[nn.Module], Row],
    settings: HeadTraining,
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
        if epoch % settings.checkpoint_every == 0 or epoch == settings.epochs:
            run.save()
    (kept,) = run.kept.values()
    return kept, run.history


def used_epoch(history: list[Row], checkpoint: Checkpoint) -> int:
    """The epoch, counted from 1, whose weights are the ones to use after those in the history."""
    best = min(history, key=lambda row: row["validation_loss"])
    return {"last": len(history), "best": int(best["epoch"])}.get(str(checkpoint)) or int(checkpoint)


def _batches(
    features: Features, pairs: Pairs, settings: HeadTraining, epoch: int
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


Images = NDArray[np.uint8] | Tensor | str | Path
Extractor = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> a feature map (N, C, S, S)
FEWEST, BATCH = 10, 250  # images of each kind, and samples that a denoiser draws in one call
WIDTH, SMALLEST = 32, 8  # channels of a small encoder at full size, and the image size at which it stops halving


@dataclass(frozen=True)
class TrainedDiscriminator:
    """A discriminator (x_vp, tau) -> logits (N,), and the network in it that was trained."""

    discriminator: Callable[..., Tensor]  # (x_vp, tau[, classes]) -> logits (N,)
    head: EncoderUNet  # of the extractor's features, or of x_vp
    last: State  # the head's weights after the last epoch, where others are used
    history: list[Row]
    tested: dict[str, NDArray[Any]]  # on held-out images: logits, labels, VP time, and image (a row of real ++ fake)

    def __call__(self, x_vp: Tensor, tau: Tensor, *classes: Tensor) -> Tensor:
        """The logits (N,) of the discriminator."""
        return self.discriminator(x_vp, tau, *classes)

    def save(self, folder: str | Path) -> None:
        """Write the head for `load_discriminator`; without an extractor it is the discriminator."""
        save_weights(Path(folder), self.head.state_dict(), self.head.arguments)

    @property
    def calibration(self) -> list[CalibrationBin]:
        """Mean probability and fraction of real images by VP time, on held-out images."""
        return calibration_bins(self.tested["logits"], self.tested["labels"], self.tested["time"])


def train_discriminator(
    real: Images,
    fake: Images | Denoiser,
    extractor: Extractor | None = None,
    *,
    head: EncoderUNet | None = None,
    classes: NDArray[np.int64] | None = None,
    device: torch.device | str = "cpu",
    checkpoints: str | Path | Checkpoints | None = None,
    progress: Report = lambda epoch, row: None,
    **settings: Any,
) -> TrainedDiscriminator:
    """Train a discriminator of real (1) and generated (0) images at all noise levels; stage `discriminator` calls this.

    real, fake: (N, H, H, C) uint8, or (N, C, H, H) tensors in [-1, 1], which are rounded to 8 bits; or a folder, a zip
    or an .npz file of images. fake may also be the denoiser: `sample` then draws as many images as there are real ones,
    with indices from 0. extractor: a pretrained `EncoderUNet`, or any (x_vp, tau) -> feature map (N, C, S, S), on whose
    frozen features a head is trained; None trains a small encoder of the images from scratch. head: the one to begin
    with; None: a fresh one. classes: of real ++ fake, for a conditional head; give conditional fakes as images.
    checkpoints: a folder; the same call resumes there after a kill, with the same bytes. progress: called with each
    epoch and its losses, such as `print`. settings: other values for fields of `DiscriminatorSettings`, such as epochs,
    seed or learning_rate. Of the images 80 % train, 10 % choose the epoch with the smallest validation loss, 10 %
    calibrate. Kim et al. 2023, Eq. 4.

    >>> rng = np.random.default_rng(0)
    >>> real, fake = (rng.integers(low, low + 100, (20, 8, 8, 1), dtype=np.uint8) for low in (150, 0))
    >>> trained = train_discriminator(real, fake, epochs=1, device="cpu")
    >>> trained.discriminator(torch.zeros(4, 1, 8, 8), torch.tensor(0.1)).shape
    torch.Size([4])
    """
    one, device = _as_uint8(real, "real"), torch.device(device)
    if callable(fake):
        size, starts = one.shape[1], range(0, len(one), BATCH)
        shapes = [(min(BATCH, len(one) - start), one.shape[3], size, size) for start in starts]
        drawn = [sample(fake, shape, first=start, device=device) for shape, start in zip(shapes, starts, strict=True)]
        fake = to_uint8(torch.cat(drawn))
    other = _as_uint8(fake, "fake")
    if one.shape[1:] != other.shape[1:] or min(len(one), len(other)) < FEWEST:
        expected, found = f"{FEWEST} or more real and fake images of one shape", f"{one.shape} and {other.shape}"
        raise InputError(expected, found, "give more images, or bring them to one shape")
    chosen = HeadTraining(**settings)
    compute, split = Compute(device, chosen.precision), chosen.split_images(len(one), len(other))
    pairs = pair_up(one, other, classes, split, device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(chosen.seed)
        features, head, probe = _untrained(extractor, head, scaled(pairs.images[:2]), classes is not None)
        if isinstance(checkpoints, str | Path):
            begun = nn.utils.parameters_to_vector(head.parameters()).detach()
            arrays = [one, other, probe.cpu().numpy(), begun.cpu().numpy(), *([] if classes is None else [classes])]
            digests = [content_digest(array) for array in arrays]
            versions = [torch.__version__, np.__version__, device.type]
            key = {**asdict(replace(chosen, matching=None)), "arrays": digests, "versions": versions}
            checkpoints = Resumable(Path(checkpoints), "discriminator", key)
        grid = chosen.grid(features, pairs, split.validation)
        rest = chosen, compute, checkpoints, progress
        kept, history = fit_head(head, features, pairs, lambda it: validate(it, grid, compute), *rest)
    last = copied(head)
    head.requires_grad_(False).load_state_dict(kept)

    def discriminator(x_vp: Tensor, tau: Tensor, *classes: Tensor) -> Tensor:
        logits: Tensor = head(features(x_vp, tau), tau, *classes)
        return logits.squeeze(1)

    test = chosen.grid(features, pairs, split.test)
    logits, labels = (found.cpu().numpy() for found in (grid_logits(head, test, compute), test.labels.long()))
    tested = {"logits": logits, "labels": labels, "time": test.time, "image": test.image}
    return TrainedDiscriminator(discriminator, head, last, history, tested)


def _untrained(
    extractor: Extractor | None, head: EncoderUNet | None, images: Tensor, condition: bool
) -> tuple[Extractor, EncoderUNet, Tensor]:
    """The extractor of features, the head that training begins with, and the features of some images."""
    _, channels, size, _ = images.shape
    if extractor is None:
        levels = 1
        while size >> (levels - 1) > SMALLEST and size % 2**levels == 0:
            levels += 1
        mult = [min(2**level, 4) for level in range(levels)]
        options: dict[str, Any] = {"num_head_channels": WIDTH, "condition": condition}
        head = head or EncoderUNet(size, channels, WIDTH, 1, 1, [2 ** (levels - 1)], mult, **options)
        return lambda x_vp, tau: x_vp, head.to(images.device), images
    if isinstance(extractor, nn.Module):
        extractor.to(images.device).requires_grad_(False).eval()
    features = extractor.features if isinstance(extractor, EncoderUNet) else extractor
    with torch.no_grad():
        probe = features(images, images.new_tensor(0.5))
    width = WIDTH * max(1, min(4, probe.shape[1] // 128))  # 128, the paper's, on its 512 features
    sizes = {"model_channels": width, "num_res_blocks": 2, "num_head_channels": WIDTH}
    head = head or build_head(probe.shape[1:], condition, **sizes)
    return features, head.to(images.device), probe


def _as_uint8(images: Images, what: str) -> NDArray[np.uint8]:
    """Square images (N, H, H, C) from what a user has."""
    if isinstance(images, str | Path):
        images = np.concatenate(list(open_images(Path(images)).batches(1000)))
    found = f"{images.dtype} {tuple(images.shape)}"
    if isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4 and len(images):
        low, high = images.min().item(), images.max().item()  # NaN, if there is one
        found = f"values from {low:.3g} to {high:.3g}"
        if -2 <= low < 0 and high <= 2:  # samples may leave [-1, 1] a little; [0, 1] is a mistake
            images = to_uint8(images)
    if isinstance(images, Tensor) or images.dtype != np.uint8 or images.ndim != 4 or len({*images.shape[1:3]}) > 1:
        expected = f"{what} images: (N, H, H, C) of uint8, or a tensor (N, C, H, H) in [-1, 1], some of it below 0"
        raise InputError(expected, found, "convert them")
    return images
