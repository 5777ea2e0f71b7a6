"""Training data of discriminators: images noised at random VP times or on a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from discriminator_guidance.core.images import scaled
from discriminator_guidance.core.noise import (
    generator,
    importance_times,
    marginal_mean,
    marginal_std,
    normal,
    quantile_grid,
    uniform_times,
)
from discriminator_guidance.core.runtime import Compute, gather_rows, share
from discriminator_guidance.core.split import Split


@dataclass(frozen=True)
class Pairs:
    """Real and fake images, and their split; labels and classes are on the device that computes."""

    real: Tensor  # (N, C, H, W), see `scaled`, on the device or mapped from a file
    fake: Tensor
    labels: Tensor  # (N,) float32 of real ++ fake, 1 real, 0 fake
    classes: Tensor | None  # (N,) int64, for conditional discriminators
    split: Split

    def take(self, rows: np.ndarray) -> Tensor:
        """Images of some rows of real ++ fake, on the device, in the units of the diffusion."""
        first, of_real = len(self.real), rows < len(self.real)
        chosen = torch.empty(len(rows), *self.real.shape[1:], device=self.labels.device)
        for kind, images, at in ((of_real, self.real, rows), (~of_real, self.fake, rows - first)):
            index = torch.from_numpy(at[kind]).to(images.device)
            chosen[torch.from_numpy(kind).to(chosen.device)] = scaled(images[index].to(chosen.device))
        return chosen


def bootstrap_rows(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Bagging (Breiman 1996): sorted draws with replacement, `share` times as many as there are rows."""
    count = max(1, round(share * len(rows)))
    return np.sort(generator(seed, "bagging", 0, 0).choice(rows, count, replace=True))


def permuted_labels(pairs: Pairs, seed: int) -> Pairs:
    """The pairs with the labels of the training images permuted: nothing can be learned from them."""
    rows, labels = torch.from_numpy(pairs.split.train).to(pairs.labels.device), pairs.labels.clone()
    order = generator(seed, "labels", 0, 0).permutation(len(rows))
    labels[rows] = labels[rows[torch.from_numpy(order).to(rows.device)]]
    return replace(pairs, labels=labels)


def vp_noised(images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Images in [-1, 1] at VP times (N,) float64: mean(t) image + std(t) noise (Song et al. 2021, Eq. 29)."""
    mean = marginal_mean(t).float().view(-1, 1, 1, 1)
    std = marginal_std(t).float().view(-1, 1, 1, 1)
    return mean * images + std * noise


def shifted(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image (N, C, H, W) by its number of pixels (N,); its edge repeats where nothing else is known."""
    n, c, y, x = (torch.arange(size, device=images.device) for size in images.shape)
    rows, columns = (y - down.view(-1, 1)).clamp(0, len(y) - 1), (x - right.view(-1, 1)).clamp(0, len(x) - 1)
    return images[n.view(-1, 1, 1, 1), c.view(-1, 1, 1), rows[:, None, :, None], columns[:, None, None, :]]


def draw_noised(
    clean: Tensor, rng: np.random.Generator, t_min: float, uniform_fraction: float, flip: bool = False, shift: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise clean images (N, C, H, W) at random VP times in [t_min, 1], x_vp and t (N,) float32.

    The first `uniform_fraction` of the times are uniform, the others drawn with the density of Kim et al. 2023,
    proportional to beta / (1 - exp(-integral of beta)). With `flip`, half of the images are mirrored. Each is moved by
    up to `shift` pixels in both directions (Zhao et al. 2020, DiffAugment).
    *Deviation:* edges repeat, because the background of an image need not be 0.
    """
    count, device = len(clean), clean.device
    u = torch.from_numpy(rng.random(count))
    uniform = round(uniform_fraction * count)
    t = torch.cat([uniform_times(u[:uniform], t_min), importance_times(u[uniform:], t_min)]).to(device)
    noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(device)
    if flip:
        mirrored = torch.from_numpy(rng.random(count) < 0.5).to(device).view(-1, 1, 1, 1)
        clean = torch.where(mirrored, clean.flip(3), clean)
    if shift:
        offsets = torch.from_numpy(rng.integers(-shift, shift, (2, count), endpoint=True)).to(device)
        clean = shifted(clean, *offsets)
    return vp_noised(clean, t, noise), t.float()


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
    classes: Tensor | None  # (P,) int64, for conditional discriminators
    image: np.ndarray  # (P,) row of real ++ fake


@torch.no_grad()
def grid_features(
    features: Features, pairs: Pairs, rows: np.ndarray, times: int, times_per_image: int, seed: int
) -> GridFeatures:
    """Features of images on the grid, each at `times_per_image` times in turn, with noise of `seed` for every head."""
    image = np.repeat(rows, times_per_image)
    index = np.arange(len(image)) % times
    time = quantile_grid(times, GRID_T_MIN).numpy()[index]
    device = pairs.labels.device
    mine, kept = share(len(image)), torch.empty(0)
    for start in range(mine.start, mine.stop, BATCH):
        part = slice(start, min(start + BATCH, mine.stop))
        chosen = pairs.take(image[part])
        indices = zip(image[part].tolist(), index[part].tolist(), strict=True)
        noise = [normal(seed, "grid", row, step, chosen.shape[1:]) for row, step in indices]
        t = torch.from_numpy(time[part]).to(device)
        maps = features(vp_noised(chosen, t, torch.stack(noise).to(device)), t.float())
        if start == mine.start:  # room for all of them: joined afterwards, they would take twice the memory
            kept = torch.empty(len(mine), *maps.shape[1:], dtype=maps.dtype)
        kept[part.start - mine.start : part.stop - mine.start] = maps
    at = torch.from_numpy(image).to(device)
    classes = None if pairs.classes is None else pairs.classes[at]
    return GridFeatures(kept, torch.from_numpy(time).float().to(device), time, pairs.labels[at], classes, image)


@torch.no_grad()
def grid_logits(head: nn.Module, grid: GridFeatures, compute: Compute) -> Tensor:
    """The (P,) float32 logits of a head, which is left in evaluation mode."""
    head.eval()
    mine, logits = share(len(grid.t)), [grid.t.new_empty(0)]
    for start in range(0, len(mine), BATCH):
        part = slice(mine.start + start, min(mine.start + start + BATCH, mine.stop))
        condition = () if grid.classes is None else (grid.classes[part],)
        with compute.autocast():
            batch: Tensor = head(grid.features[start : start + BATCH].to(grid.t.device), grid.t[part], *condition)
        logits.append(batch.view(-1).float())
    return gather_rows(torch.cat(logits), len(grid.t)).to(grid.t.device)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of images on the right side of probability 0.5; a tie counts as real."""
    return ((logits >= 0).float() == labels).float().mean().item()
