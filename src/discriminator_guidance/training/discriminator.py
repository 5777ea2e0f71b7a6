"""Training of one discriminator head on frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.diffusion.seeds import generator, normal, torch_seed
from discriminator_guidance.diffusion.vp_time import quantile_grid
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.loop import Checkpoints, Row
from discriminator_guidance.training.pairs import GRID_T_MIN, draw_noised, grid_pairs, scaled, vp_noised

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
    checkpoint_every: int


@dataclass(frozen=True)
class GridFeatures:
    """Frozen features of images at times of the common grid, with what identifies each pair."""

    features: Tensor  # (P, C, H, W)
    t: Tensor  # (P,) float32
    time: np.ndarray  # (P,) float64
    labels: Tensor  # (P,) float32, 1 real, 0 fake
    image: np.ndarray  # (P,) row in real ++ fake


@torch.no_grad()
def grid_features(
    features: Features,
    images: Tensor,
    labels: Tensor,
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
        rows: which images.
        times: number of grid times.
        times_per_image: how many of them each image sees.
        seed: of the noise.

    Returns:
        Features for every (image, time) pair.
    """
    image, index = grid_pairs(rows, times, times_per_image)
    time = quantile_grid(times, GRID_T_MIN).numpy()[index]
    chunks = []
    for start in range(0, len(image), FEATURE_BATCH):
        part = slice(start, start + FEATURE_BATCH)
        chosen = images[torch.from_numpy(image[part]).to(images.device)]
        pairs = zip(image[part].tolist(), index[part].tolist(), strict=True)
        noise = torch.stack([normal(seed, "grid", row, step, chosen.shape[1:]) for row, step in pairs]).to(
            images.device
        )
        t = torch.from_numpy(time[part]).to(images.device)
        chunks.append(features(vp_noised(scaled(chosen), t, noise), t.float()))
    t32 = torch.from_numpy(time).float().to(images.device)
    return GridFeatures(torch.cat(chunks), t32, time, labels[torch.from_numpy(image).to(labels.device)], image)


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
            logits.append(head(grid.features[part], grid.t[part]).view(-1).float())
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
    train_rows: np.ndarray,
    validation: GridFeatures,
    settings: MemberSettings,
    compute: Compute,
    checkpoints: Checkpoints,
    on_epochs: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
) -> list[Row]:
    """Train a head to tell real from fake at every VP time.

    Args:
        features: the frozen extractor.
        head: trained in place.
        images: (N, C, H, W) uint8, real ++ fake, on the device.
        labels: (N,) float32, 1 real, 0 fake.
        train_rows: the training images.
        validation: features of the validation images on the common grid.
        settings: the member.
        compute: device and precision.
        checkpoints: where resumable states go.
        on_epochs: progress.
        on_metrics: told the row of each epoch.

    Returns:
        One row for each epoch: losses and accuracies on training batches and on the validation grid.

    Raises:
        DivergenceError: a loss is not finite; the last checkpoint is kept.

    Source: Kim et al. 2023, Eq. 4 (BCE over importance-sampled times); the study's Table 2.
    """
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    history: list[Row] = []
    state = checkpoints.load()
    if state is not None:
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
        on_epochs(len(history))
    for epoch in range(len(history), settings.epochs):
        row = {
            "epoch": epoch + 1,
            **_train_epoch(features, head, images, labels, train_rows, optimizer, settings, compute, epoch),
        }
        logits = grid_logits(head, validation, compute)
        row["validation_loss"] = binary_cross_entropy(logits, validation.labels).item()
        row["validation_accuracy"] = accuracy(logits, validation.labels)
        history.append(row)
        on_metrics(epoch + 1, {key: value for key, value in row.items() if key != "epoch"})
        if (epoch + 1) % settings.checkpoint_every == 0:
            checkpoints.save({"head": head.state_dict(), "optimizer": optimizer.state_dict(), "history": history})
        on_epochs(1)
    return history


def _train_epoch(
    features: Features,
    head: nn.Module,
    images: Tensor,
    labels: Tensor,
    train_rows: np.ndarray,
    optimizer: torch.optim.Optimizer,
    settings: MemberSettings,
    compute: Compute,
    epoch: int,
) -> Row:
    head.train()
    # The study never reshuffled: every epoch saw the batches of the first.
    order = generator(settings.seed, "order", epoch if settings.reshuffle else 0, 0).permutation(train_rows)
    loss_sum = torch.zeros((), device=images.device)
    right = torch.zeros((), device=images.device)
    for batch_index, start in enumerate(range(0, len(order), settings.batch_size)):
        rows = torch.from_numpy(order[start : start + settings.batch_size]).to(images.device)
        rng = generator(settings.seed, "batch", epoch, batch_index)
        uniform = 0.0 if settings.importance_sampling else 1.0
        batch = draw_noised(images[rows], labels[rows], rng, settings.t_min, uniform, settings.flip)
        torch.manual_seed(torch_seed(settings.seed, f"dropout {epoch}", batch_index))
        with torch.no_grad():
            frozen = features(batch.x_vp, batch.t)
        with compute.autocast():
            logits = head(frozen, batch.t).view(-1)
        loss = binary_cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.detach() * len(rows)
        right += ((logits.detach() >= 0).float() == batch.labels).sum()
    mean_loss = loss_sum.item() / len(order)
    if not np.isfinite(mean_loss):
        raise DivergenceError(
            "a finite training loss",
            f"{mean_loss} in epoch {epoch + 1}",
            "lower the member's learning_rate or learning_rate_factor; the last checkpoint is kept",
        )
    return {"train_loss": mean_loss, "train_accuracy": right.item() / len(order)}
