"""The common grid of VP times, on which every head is validated and tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance import distributed
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.noise import normal, quantile_grid
from discriminator_guidance.training.loop import Row
from discriminator_guidance.training.pairs import Pairs, scaled, vp_noised

Features = Callable[[Tensor, Tensor], Tensor]  # (x_vp, t) -> feature map of the frozen extractor

GRID_T_MIN = 1e-5  # the reproduction validated every member from this VP time on, whatever it was trained with
BATCH = 512  # pairs of image and time in one pass


@dataclass(frozen=True)
class GridFeatures:
    """Frozen features of P pairs of image and grid time, and what identifies each pair."""

    # (P, C, H, W) in main memory, because they are gigabytes at full size. Each process has its share of the pairs.
    features: Tensor
    t: Tensor  # (P,) float32
    time: np.ndarray  # (P,) float64
    labels: Tensor  # (P,) float32, 1 real, 0 fake
    classes: Tensor | None  # (P,) int64, for conditional heads
    image: np.ndarray  # (P,) row of real ++ fake


@torch.no_grad()
def grid_features(
    features: Features, pairs: Pairs, rows: np.ndarray, times: int, times_per_image: int, seed: int
) -> GridFeatures:
    """Features of images on the grid, each at `times_per_image` times in turn, with noise of `seed` for every head."""
    image = np.repeat(rows, times_per_image)
    index = np.arange(len(image)) % times
    time = quantile_grid(times, GRID_T_MIN).numpy()[index]
    device = pairs.images.device
    own = distributed.share(len(image))
    kept = torch.empty(0)
    for start in range(own.start, own.stop, BATCH):
        part = slice(start, min(start + BATCH, own.stop))
        chosen = pairs.images[torch.from_numpy(image[part]).to(device)]
        indices = zip(image[part].tolist(), index[part].tolist(), strict=True)
        noise = [normal(seed, "grid", row, step, chosen.shape[1:]) for row, step in indices]
        t = torch.from_numpy(time[part]).to(device)
        found = features(vp_noised(scaled(chosen), t, torch.stack(noise).to(device)), t.float())
        if start == own.start:  # room for all of them: joined afterwards, they would take twice the memory
            kept = torch.empty(len(own), *found.shape[1:], dtype=found.dtype)
        kept[part.start - own.start : part.stop - own.start] = found
    at = torch.from_numpy(image).to(device)
    classes = None if pairs.classes is None else pairs.classes[at]
    return GridFeatures(kept, torch.from_numpy(time).float().to(device), time, pairs.labels[at], classes, image)


@torch.no_grad()
def grid_logits(head: nn.Module, grid: GridFeatures, compute: Compute) -> Tensor:
    """The (P,) float32 logits of a head, which is left in evaluation mode."""
    head.eval()
    own, logits = distributed.share(len(grid.t)), [grid.t.new_empty(0)]
    for start in range(0, len(own), BATCH):
        part = slice(own.start + start, min(own.start + start + BATCH, own.stop))
        condition = () if grid.classes is None else (grid.classes[part],)
        with compute.autocast():
            found: Tensor = head(grid.features[start : start + BATCH].to(grid.t.device), grid.t[part], *condition)
        logits.append(found.view(-1).float())
    return distributed.gather_rows(torch.cat(logits), len(grid.t)).to(grid.t.device)


def validate(head: nn.Module, grid: GridFeatures, compute: Compute) -> Row:
    """Binary cross-entropy in nats and accuracy of a head on the validation grid."""
    logits = grid_logits(head, grid, compute)
    return {
        "validation_loss": binary_cross_entropy(logits, grid.labels).item(),
        "validation_accuracy": accuracy(logits, grid.labels),
    }


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of images on the right side of probability 0.5; a tie counts as real."""
    return ((logits >= 0).float() == labels).float().mean().item()
