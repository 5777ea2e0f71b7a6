"""The common grid of VP times, on which every head is validated and tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from discriminator_guidance import ranks
from discriminator_guidance.diffusion.seeds import normal
from discriminator_guidance.diffusion.vp_time import quantile_grid
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.pairs import GRID_T_MIN, grid_pairs, scaled, vp_noised

Features = Callable[[Tensor, Tensor], Tensor]  # (x_vp, t) -> feature map, frozen
FEATURE_BATCH = 512


@dataclass(frozen=True)
class GridFeatures:
    """Frozen features of images at times of the common grid, with what identifies each pair."""

    # (P, C, H, W) in main memory, wherever the rest is: at full size they are gigabytes. Of several ranks each has
    # those of its own batches, `ranks.own_rows`.
    features: Tensor
    t: Tensor  # (P,) float32
    time: np.ndarray  # (P,) float64
    labels: Tensor  # (P,) float32, 1 real, 0 fake
    classes: Tensor | None  # (P,) int64, for conditional heads
    image: np.ndarray  # (P,) row in real ++ fake
    at_once: BatchSize  # pairs in one pass, of a head too


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
    at_once: BatchSize,
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
        at_once: pairs in one pass; never more than FEATURE_BATCH, in which ranks share them out.

    Returns:
        Features for every (image, time) pair.
    """
    image, index = grid_pairs(rows, times, times_per_image)
    time = quantile_grid(times, GRID_T_MIN).numpy()[index]
    assert len(image), "no validation or test images"
    own = ranks.own_rows(len(image), FEATURE_BATCH)
    own_image, own_index, own_time = image[own], index[own], time[own]
    kept: Tensor | None = None

    def frozen(part: slice) -> Tensor:
        chosen = images[torch.from_numpy(own_image[part]).to(images.device)]
        pairs = zip(own_image[part].tolist(), own_index[part].tolist(), strict=True)
        noise = torch.stack([normal(seed, "grid", row, step, chosen.shape[1:]) for row, step in pairs]).to(
            images.device
        )
        t = torch.from_numpy(own_time[part]).to(images.device)
        return features(vp_noised(scaled(chosen), t, noise), t.float())

    for part, found in _passes(len(own_image), at_once, frozen):
        # Room for all at once: joined afterwards, they would be there twice.
        kept = torch.empty(len(own_image), *found.shape[1:], dtype=found.dtype) if kept is None else kept
        kept[part] = found
    kept = torch.empty(0) if kept is None else kept
    t32 = torch.from_numpy(time).float().to(images.device)
    chosen = torch.from_numpy(image).to(labels.device)
    condition = None if classes is None else classes[chosen]
    return GridFeatures(kept, t32, time, labels[chosen], condition, image, at_once)


@torch.no_grad()
def grid_logits(head: nn.Module, grid: GridFeatures, compute: Compute) -> Tensor:
    """Logits of a head on the common grid.

    Args:
        head: discriminator head.
        grid: from `grid_features`.
        compute: device and precision.

    Returns:
        (P,) float32 logits, of several ranks on each.
    """
    head.eval()
    own = ranks.own_rows(len(grid.t), FEATURE_BATCH)
    own_t, own_classes = grid.t[own], None if grid.classes is None else grid.classes[own]

    def judged(part: slice) -> Tensor:
        with compute.autocast():
            condition = () if own_classes is None else (own_classes[part],)
            features = grid.features[part].to(grid.t.device)
            logits: Tensor = head(features, own_t[part], *condition)
        return logits.view(-1).float()

    found = [grid.t.new_empty(0), *(logits for _, logits in _passes(len(own_t), grid.at_once, judged))]
    return ranks.collected(torch.cat(found), len(grid.t), FEATURE_BATCH).to(grid.t.device)


def _passes(count: int, at_once: BatchSize, run: Callable[[slice], Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Go through rows in parts that fit the device; one that was too much is begun again with fewer."""
    start = 0
    while start < count:

        def one(size: int, start: int = start) -> tuple[slice, Tensor]:
            part = slice(start, min(count, start + min(size, FEATURE_BATCH)))
            return part, run(part)

        part, found = at_once.attempt(one)
        yield part, found
        start = part.stop


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of pictures on the right side of probability 0.5.

    Args:
        logits: (N,) raw logits.
        labels: (N,) 1 real, 0 fake.

    Returns:
        In [0, 1].
    """
    return ((logits >= 0).float() == labels).float().mean().item()
