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

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import Resumable, save_weights
from discriminator_guidance.core.image_files import open_images
from discriminator_guidance.core.images import content_digest, scaled, to_uint8
from discriminator_guidance.core.noise import generator
from discriminator_guidance.core.runtime import Compute
from discriminator_guidance.core.settings import Checkpoint, DiscriminatorSettings
from discriminator_guidance.core.split import Split, split_pairs
from discriminator_guidance.metrics.classification import CalibrationBin, calibration_bins, expected_calibration_error
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.sampling.ensemble import Denoiser
from discriminator_guidance.sampling.sampler import sample
from discriminator_guidance.training import loop
from discriminator_guidance.training.loop import Batch, Report, Row, State, copied
from discriminator_guidance.training.pairs import (
    Features,
    GridFeatures,
    Pairs,
    accuracy,
    bootstrap_rows,
    draw_noised,
    grid_features,
    grid_logits,
    pair_up,
    permuted_labels,
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
        per_image = self.grid_times_per_image or max(1, min(self.grid_times, GRID_PAIRS // len(rows)))
        return grid_features(features, pairs, rows, self.grid_times, per_image, self.split.seed)

    def rows(self, split: Split) -> np.ndarray:
        """The training images of an epoch, as rows of real ++ fake."""
        return split.train if self.bagging is None else bootstrap_rows(split.train, self.bagging, self.seed)


def fit_head(
    head: nn.Module,
    features: Features,
    pairs: Pairs,
    grid: GridFeatures,
    settings: HeadTraining,
    compute: Compute,
    checkpoints: Resumable | None = None,
    report: Report | None = None,
) -> tuple[int, State, list[Row]]:
    """Minimize the binary cross-entropy of d(x_vp, t) over importance-sampled VP times (Kim et al. 2023, Eq. 4).

    Score matching replaces the cross-entropy, or is added to it, where `settings.objective` asks for it.
    Returns the epoch that `settings.checkpoint` chooses, 0 with no epochs, the weights after it, and the curve with the
    scores on the validation grid. With `settings.ema_decay` these are the average's; the head itself always ends with
    its own weights of the last epoch. A resumed run reports the rows of its checkpoint again.

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
            logits: Tensor = head(frozen, t, *condition)
        return logits.view(-1).float()

    def loss_of(batch: Batch, matched: Batch) -> tuple[Tensor, Row]:
        frozen, t, target, *condition = batch
        logits = logit(frozen, t, *condition)
        smoothed = target + settings.label_smoothing * (1 - 2 * target)
        loss = binary_cross_entropy(logits, smoothed)
        if matching is not None:
            loss = (loss if settings.objective == "both" else 0.0) + matching.loss(logit, *matched)
        return loss, {"accuracy": accuracy(logits.detach(), target)}

    for epoch in range(run.done + 1, settings.epochs + 1):
        head.train()
        train_loss = train_accuracy = 0.0
        drawn = _batches(features, pairs, settings, epoch - 1)
        for number, (batch, matched, weight, share) in enumerate(drawn):
            step = (epoch - 1) * batches + number
            run.set_rate(settings, step, settings.epochs * batches)
            loop.seed_dropout(settings.seed, f"dropout {epoch - 1}", number)
            where = f"in epoch {epoch}, batch {number + 1}"
            row = run.step(partial(loss_of, matched=matched), batch, weight, step, where)
            train_loss += row["loss"] * share
            train_accuracy += row["accuracy"] * share
        scores = validate(run.used, grid, compute)
        run.log(epoch, {"train_loss": train_loss, "train_accuracy": train_accuracy, **scores})
        if used_epoch(run.history, settings.checkpoint) == epoch:
            run.kept = {epoch: loop.copied(run.used)}
        if epoch % settings.checkpoint_every == 0 or epoch == settings.epochs:
            run.save()
    ((used, kept),) = run.kept.items()
    return used, kept, run.history


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
        part, weight = loop.part_of_process(len(rows))
        with torch.no_grad():
            frozen = features(x_vp[part], t[part])
        classes = () if pairs.classes is None else (pairs.classes[rows[part]],)
        matched: Batch = ()
        if settings.matching is not None:
            rng = generator(settings.seed, "matching", epoch, number)
            drawn = settings.matching.draw(pairs, rng.choice(real, len(rows)), rng, settings.t_min)
            matched = tuple(tensor[part] for tensor in drawn)
        yield (frozen, t[part], pairs.labels[rows[part]], *classes), matched, weight, len(rows) / len(order)


Images = NDArray[np.uint8] | Tensor | str | Path
Extractor = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> a feature map (N, C, S, S)
FEWEST, BATCH = 10, 250  # images of each kind, and samples that a denoiser draws in one call
WIDTH, SMALLEST = 32, 8  # channels of a small encoder at full size, and the image size at which it stops halving


def validate(head: nn.Module, grid: GridFeatures, compute: Compute) -> Row:
    """Binary cross-entropy in nats, accuracy and calibration error of a head on the validation grid."""
    logits = grid_logits(head, grid, compute)
    loss = binary_cross_entropy(logits, grid.labels).item()
    loop.require_finite("on validation images", validation_loss=loss)
    bins = calibration_bins(logits.cpu().numpy(), grid.labels.cpu().numpy().astype(np.int64), grid.time)
    error = float(np.mean([*expected_calibration_error(bins).values()]))  # noise levels count alike
    return {"validation_loss": loss, "validation_accuracy": accuracy(logits, grid.labels), "calibration_error": error}


@dataclass(frozen=True)
class TrainedDiscriminator:
    """A discriminator (x_vp, tau) -> logits (N,), and the network in it that was trained."""

    features: Features  # of the extractor, or x_vp itself
    head: EncoderUNet  # on them
    last: State  # the head's weights after the last epoch, where others are used
    history: list[Row]
    used: Row  # of the history, whose epoch the weights are from; with no epochs the scores of epoch 0
    tested: dict[str, NDArray[Any]]  # on held-out images: logits, labels, VP time, and image (a row of real ++ fake)

    def discriminator(self, x_vp: Tensor, tau: Tensor, *classes: Tensor) -> Tensor:
        """The logits (N,) of x_vp (N, C, H, W) at VP times."""
        logits: Tensor = self.head(self.features(x_vp, tau), tau, *classes)
        return logits.squeeze(1)

    __call__ = discriminator

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
    checkpoints: str | Path | Resumable | None = None,
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
    images, device = _as_uint8(real, "real"), torch.device(device)
    if callable(fake):
        parts = np.array_split(np.arange(len(images)), range(BATCH, len(images), BATCH))
        shape = images.shape[3], images.shape[1], images.shape[1]
        drawn = [sample(fake, (len(part), *shape), first=int(part[0]), device=device) for part in parts]
        fake = to_uint8(torch.cat(drawn))
    fakes = _as_uint8(fake, "fake")
    if images.shape[1:] != fakes.shape[1:] or min(len(images), len(fakes)) < FEWEST:
        expected, got = f"{FEWEST} or more real and fake images of one shape", f"{images.shape} and {fakes.shape}"
        raise InputError(expected, got, "give more images, or bring them to one shape")
    chosen = HeadTraining(**settings)
    compute, split = Compute(device, chosen.precision), chosen.split_images(len(images), len(fakes))
    pairs = pair_up(images, fakes, classes, split, device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(chosen.seed)
        features, head, probe = _untrained(extractor, head, scaled(pairs.images[:2]), classes is not None)
        if isinstance(checkpoints, str | Path):
            start = nn.utils.parameters_to_vector(head.parameters()).detach()
            arrays = [images, fakes, probe.cpu().numpy(), start.cpu().numpy(), *([] if classes is None else [classes])]
            versions = [torch.__version__, np.__version__, device.type]
            key = {**asdict(replace(chosen, matching=None)), "arrays": list(map(content_digest, arrays))}
            checkpoints = Resumable(Path(checkpoints), "discriminator", {**key, "versions": versions})
        grid = chosen.grid(features, pairs, split.validation)
        epoch, kept, history = fit_head(head, features, pairs, grid, chosen, compute, checkpoints, progress)
    last = copied(head)
    head.requires_grad_(False).load_state_dict(kept)
    used = history[epoch - 1] if epoch else {"epoch": 0, **validate(head, grid, compute)}

    test = chosen.grid(features, pairs, split.test)
    logits, labels = (values.cpu().numpy() for values in (grid_logits(head, test, compute), test.labels.long()))
    tested = {"logits": logits, "labels": labels, "time": test.time, "image": test.image}
    return TrainedDiscriminator(features, head, last, history, used, tested)


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
    got = f"{images.dtype} {tuple(images.shape)}"
    if isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4 and len(images):
        low, high = images.min().item(), images.max().item()  # NaN, if there is one
        got = f"values from {low:.3g} to {high:.3g}"
        if -2 <= low < 0 and high <= 2:  # samples may leave [-1, 1] a little; [0, 1] is a mistake
            images = to_uint8(images)
    if isinstance(images, Tensor) or images.dtype != np.uint8 or images.ndim != 4 or len({*images.shape[1:3]}) > 1:
        expected = f"{what} images: (N, H, H, C) of uint8, or a tensor (N, C, H, H) in [-1, 1], some of it below 0"
        raise InputError(expected, got, "convert them")
    return images
