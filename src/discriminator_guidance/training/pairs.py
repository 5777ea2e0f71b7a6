"""Training data of discriminators: real and fake images with their one fixed split, noised at random VP times."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.noise import generator, importance_times, marginal_mean, marginal_std, uniform_times


@dataclass(frozen=True)
class Split:
    """Sorted rows of real ++ fake for training, validation and test."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Real and fake images on one device, and their split."""

    images: Tensor  # (N, C, H, W) uint8, real ++ fake
    labels: Tensor  # (N,) float32, 1 real, 0 fake
    classes: Tensor | None  # (N,) int64, for conditional heads
    split: Split


def pair_up(
    real: np.ndarray, fake: np.ndarray, classes: np.ndarray | None, split: Split, device: torch.device
) -> Pairs:
    """Put real and fake images, both (N, H, W, C) uint8, with the classes of real ++ fake, on a device."""
    labels = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))])
    return Pairs(
        torch.cat([as_tensor(real, device), as_tensor(fake, device)]),
        labels.to(device),
        None if classes is None else torch.from_numpy(classes).to(device),
        split,
    )


def split_pairs(real: int, fake: int, train: float, validation: float, seed: int, most: int | None = None) -> Split:
    """The fixed split of `real` and `fake` images, each kind split in the same shares; `most` images of each kind."""
    parts: list[list[np.ndarray]] = [[], [], []]
    for label, (first, count) in enumerate([(0, real), (real, fake)]):
        rows = first + generator(seed, "split", label, 0).permutation(count)[:most]
        ends = [round(train * len(rows)), round((train + validation) * len(rows))]
        for part, chunk in zip(parts, np.split(rows, ends), strict=True):
            part.append(chunk)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


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


def as_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """Images (N, H, W, C) uint8 as (N, C, H, W) on a device."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def scaled(images: Tensor) -> Tensor:
    """Images of 0 .. 255 as float32 in [-1, 1], the units of the diffusion."""
    return images.float() / 127.5 - 1


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
    images: Tensor, rng: np.random.Generator, t_min: float, uniform_fraction: float, flip: bool = False, shift: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise images (N, C, H, W) uint8 at random VP times in [t_min, 1], x_vp and t (N,) float32.

    The first `uniform_fraction` of the times are uniform, the others drawn with the density of Kim et al. 2023,
    proportional to beta / (1 - exp(-integral of beta)). With `flip`, half of the images are mirrored. Each is moved by
    up to `shift` pixels in both directions (Zhao et al. 2020, DiffAugment).
    *Deviation:* edges repeat, because the background of an image need not be 0.
    """
    count, device = len(images), images.device
    u = torch.from_numpy(rng.random(count))
    uniform = round(uniform_fraction * count)
    t = torch.cat([uniform_times(u[:uniform], t_min), importance_times(u[uniform:], t_min)]).to(device)
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32)).to(device)
    clean = scaled(images)
    if flip:
        mirrored = torch.from_numpy(rng.random(count) < 0.5).to(device).view(-1, 1, 1, 1)
        clean = torch.where(mirrored, clean.flip(3), clean)
    if shift:
        offsets = torch.from_numpy(rng.integers(-shift, shift, (2, count), endpoint=True)).to(device)
        clean = shifted(clean, *offsets)
    return vp_noised(clean, t, noise), t.float()
