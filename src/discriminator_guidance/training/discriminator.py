"""Training of one discriminator head on frozen features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.diffusion.seeds import generator, normal, torch_seed
from discriminator_guidance.diffusion.vp_time import quantile_grid
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.loop import Batch, Checkpoints, Row, accumulate_gradients
from discriminator_guidance.training.pairs import GRID_T_MIN, draw_noised, grid_pairs, scaled, vp_noised

State = dict[str, Tensor]
Features = Callable[[Tensor, Tensor], Tensor]  # (x_vp, t) -> feature map, frozen
FEATURE_BATCH = 512


@dataclass(frozen=True)
class MemberSettings:
    """One member of the ensemble: a row of Table 2 after the two factors, and what all rows share."""

    seed: int
    epochs: int
    learning_rate: float
    weight_decay: float
    t_min: float
    batch_size: int
    importance_sampling: bool
    reshuffle: bool
    flip: bool
    label_smoothing: float
    checkpoint: Literal["last", "best"] | int  # the epoch whose weights are used
    checkpoint_every: int


@dataclass(frozen=True)
class GridFeatures:
    """Frozen features of images at times of the common grid, with what identifies each pair."""

    features: Tensor  # (P, C, H, W) in main memory, wherever the rest is: at full size they are gigabytes
    t: Tensor  # (P,) float32
    time: np.ndarray  # (P,) float64
    labels: Tensor  # (P,) float32, 1 real, 0 fake
    classes: Tensor | None  # (P,) int64, for conditional heads
    image: np.ndarray  # (P,) row in real ++ fake


@torch.no_grad()
def grid_features(
    features: Features,
    images: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    rows: np.ndarray,
    times: int,
    times_per_image: int,
    seed: int,
) -> GridFeatures:
    """Features of validation or test images on the common grid of times, with noise fixed for all members.

    Args:
        features: the frozen extractor.
        images: (N, C, H, W) uint8, real ++ fake.
        labels: (N,) float32, 1 real, 0 fake.
        classes: (N,) int64 for conditional heads.
        rows: which images.
        times: number of grid times.
        times_per_image: how many of them each image sees.
        seed: of the noise.

    Returns:
        Features for every (image, time) pair.
    """
    image, index = grid_pairs(rows, times, times_per_image)
    time = quantile_grid(times, GRID_T_MIN).numpy()[index]
    kept: Tensor | None = None
    for start in range(0, len(image), FEATURE_BATCH):
        part = slice(start, start + FEATURE_BATCH)
        chosen = images[torch.from_numpy(image[part]).to(images.device)]
        pairs = zip(image[part].tolist(), index[part].tolist(), strict=True)
        noise = torch.stack([normal(seed, "grid", row, step, chosen.shape[1:]) for row, step in pairs]).to(
            images.device
        )
        t = torch.from_numpy(time[part]).to(images.device)
        found = features(vp_noised(scaled(chosen), t, noise), t.float())
        # Room for all at once: joined afterwards, they would be there twice.
        kept = torch.empty(len(image), *found.shape[1:], dtype=found.dtype) if kept is None else kept
        kept[part] = found
    assert kept is not None, "no validation or test images"
    t32 = torch.from_numpy(time).float().to(images.device)
    chosen = torch.from_numpy(image).to(labels.device)
    condition = None if classes is None else classes[chosen]
    return GridFeatures(kept, t32, time, labels[chosen], condition, image)


@torch.no_grad()
def grid_logits(head: nn.Module, grid: GridFeatures, compute: Compute) -> Tensor:
    """Logits of a head on the common grid.

    Args:
        head: discriminator head.
        grid: from `grid_features`.
        compute: device and precision.

    Returns:
        (P,) float32 logits.
    """
    head.eval()
    logits = []
    for start in range(0, len(grid.t), FEATURE_BATCH):
        part = slice(start, start + FEATURE_BATCH)
        with compute.autocast():
            condition = () if grid.classes is None else (grid.classes[part],)
            features = grid.features[part].to(grid.t.device)
            logits.append(head(features, grid.t[part], *condition).view(-1).float())
    return torch.cat(logits)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of pictures on the right side of probability 0.5.

    Args:
        logits: (N,) raw logits.
        labels: (N,) 1 real, 0 fake.

    Returns:
        In [0, 1].
    """
    return ((logits >= 0).float() == labels).float().mean().item()


def train_discriminator(
    features: Features,
    head: nn.Module,
    images: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    train_rows: np.ndarray,
    validation: GridFeatures,
    settings: MemberSettings,
    compute: Compute,
    at_once: BatchSize,
    checkpoints: Checkpoints,
    on_epochs: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
) -> tuple[State, list[Row]]:
    """Train a head to tell real from fake at every VP time.

    Args:
        features: the frozen extractor.
        head: trained in place.
        images: (N, C, H, W) uint8, real ++ fake, on the device.
        labels: (N,) float32, 1 real, 0 fake.
        classes: (N,) int64 for a conditional head.
        train_rows: the training images; one that is named twice is used twice in an epoch.
        validation: features of the validation images on the common grid.
        settings: the member.
        compute: device and precision.
        at_once: pictures in one pass.
        checkpoints: where resumable states go.
        on_epochs: progress.
        on_metrics: told the row of each epoch.

    Returns:
        The weights to use, as `settings.checkpoint` chooses, and one row for each epoch: losses and accuracies on
        training batches and on the validation grid. The head itself ends with the weights of the last epoch.

    Raises:
        DivergenceError: a loss or gradient is not finite; it is named with picture and VP time where one alone causes
            it, and the last checkpoint is kept.

    Source: Kim et al. 2023, Eq. 4 (BCE over importance-sampled times); the study's Table 2.
    """
    optimizer = torch.optim.Adam(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    history: list[Row] = []
    kept: State = {}
    state = checkpoints.load()
    if state is not None:
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        history, kept = state["history"], state["kept"]
        on_epochs(len(history))
    for epoch in range(len(history), settings.epochs):
        row = {
            "epoch": epoch + 1,
            **_train_epoch(
                features, head, images, labels, classes, train_rows, optimizer, settings, compute, at_once, epoch
            ),
        }
        logits = grid_logits(head, validation, compute)
        row["validation_loss"] = binary_cross_entropy(logits, validation.labels).item()
        _refuse_non_finite("validation loss", row["validation_loss"], f"epoch {epoch + 1}")
        row["validation_accuracy"] = accuracy(logits, validation.labels)
        history.append(row)
        if _is_kept(history, settings):
            kept = {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}
        on_metrics(epoch + 1, {key: value for key, value in row.items() if key != "epoch"})
        if (epoch + 1) % settings.checkpoint_every == 0:
            checkpoints.save(
                {"head": head.state_dict(), "optimizer": optimizer.state_dict(), "history": history, "kept": kept}
            )
        on_epochs(1)
    return kept, history


def _is_kept(history: list[Row], settings: MemberSettings) -> bool:
    """Whether the weights after the last epoch of the history are, so far, those to use."""
    epoch, loss = len(history), history[-1]["validation_loss"]
    if settings.checkpoint == "best":
        return all(loss < row["validation_loss"] for row in history[:-1])
    return epoch == (settings.epochs if settings.checkpoint == "last" else settings.checkpoint)


def _train_epoch(
    features: Features,
    head: nn.Module,
    images: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    train_rows: np.ndarray,
    optimizer: torch.optim.Optimizer,
    settings: MemberSettings,
    compute: Compute,
    at_once: BatchSize,
    epoch: int,
) -> Row:
    head.train()
    # The study never reshuffled: every epoch saw the batches of the first.
    order = generator(settings.seed, "order", epoch if settings.reshuffle else 0, 0).permutation(train_rows)

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        x_vp, t, target, *condition = batch
        with torch.no_grad():
            frozen = features(x_vp, t)
        with compute.autocast():
            logits = head(frozen, t, *condition).view(-1)
        smoothed = target + settings.label_smoothing * (1 - 2 * target)
        loss = binary_cross_entropy(logits.float(), smoothed)
        return loss, {"accuracy": accuracy(logits.detach(), target)}

    mean_loss, mean_accuracy = 0.0, 0.0
    for batch_index, start in enumerate(range(0, len(order), settings.batch_size)):
        rows = torch.from_numpy(order[start : start + settings.batch_size]).to(images.device)
        rng = generator(settings.seed, "batch", epoch, batch_index)
        uniform = 0.0 if settings.importance_sampling else 1.0
        noised = draw_noised(images[rows], labels[rows], rng, settings.t_min, uniform, settings.flip)
        batch: Batch = (noised.x_vp, noised.t, noised.labels)
        if classes is not None:
            batch = (*batch, classes[rows])

        def passes(size: int, batch: Batch = batch, batch_index: int = batch_index) -> Row:
            torch.manual_seed(torch_seed(settings.seed, f"dropout {epoch}", batch_index))
            optimizer.zero_grad(set_to_none=True)
            return accumulate_gradients(loss_of, batch, size)

        row = at_once.attempt(passes)
        place = f"epoch {epoch + 1}, batch {batch_index + 1}"
        if not math.isfinite(row["loss"]):
            place += _faulty(loss_of, batch, rows)
        _refuse_non_finite("training loss", row["loss"], place)
        # One step along such a gradient spoils every weight, and the checkpoint after it.
        _refuse_non_finite("gradient norm", float(nn.utils.get_total_norm(_gradients(head))), place)
        optimizer.step()
        mean_loss += row["loss"] * len(rows) / len(order)
        mean_accuracy += row["accuracy"] * len(rows) / len(order)
    return {"train_loss": mean_loss, "train_accuracy": mean_accuracy}


def _gradients(head: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in head.parameters() if parameter.grad is not None]


@torch.no_grad()
def _faulty(loss_of: Callable[[Batch], tuple[Tensor, Row]], batch: Batch, rows: Tensor) -> str:
    """The first picture whose own loss is not finite, with its VP time."""
    for place, row in enumerate(rows.tolist()):
        loss, _ = loss_of(tuple(tensor[place : place + 1] for tensor in batch))
        if not math.isfinite(loss.item()):
            return f": picture {row} at VP time t = {float(batch[1][place]):.4g}"
    return ""


def _refuse_non_finite(kind: str, value: float, place: str) -> None:
    if not math.isfinite(value):
        raise DivergenceError(
            f"a finite {kind}",
            f"{value} in {place}",
            "lower the member's learning_rate or learning_rate_factor; the last checkpoint is kept",
        )
