"""Batches: pictures as tensors, VP-noised pictures, and the one fixed split of real and fake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.diffusion.vp_time import (
    importance_times,
    marginal_mean,
    marginal_std,
    uniform_times,
)

GRID_T_MIN = 1e-5  # the study validated every member with this t_min, whatever it was trained with
REAL, FAKE = 1, 0


def as_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """Pictures as they stay on the device during training.

    Args:
        images: (N, H, W, C) uint8.
        device: where they go.

    Returns:
        (N, C, H, W) uint8.
    """
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def scaled(images: Tensor) -> Tensor:
    """Pictures in the units of the diffusion.

    Args:
        images: uint8, 0 .. 255.

    Returns:
        float32 in [-1, 1].
    """
    return images.float() / 127.5 - 1


def vp_noised(images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Pictures at a VP time.

    Args:
        images: (N, C, H, W) in [-1, 1].
        t: (N,) VP times, float64.
        noise: (N, C, H, W) standard normal.

    Returns:
        (N, C, H, W) float32, mean(t) image + std(t) noise.

    Source: Song et al. 2021, Eq. 29.
    """
    mean = marginal_mean(t).float().view(-1, 1, 1, 1)
    std = marginal_std(t).float().view(-1, 1, 1, 1)
    return mean * images + std * noise


@dataclass(frozen=True)
class NoisedBatch:
    """Pictures at VP times: x_vp (N, C, H, W) float32, t (N,) float32, labels (N,)."""

    x_vp: Tensor
    t: Tensor
    labels: Tensor


def draw_noised(
    images: Tensor,
    labels: Tensor,
    rng: np.random.Generator,
    t_min: float,
    uniform_fraction: float,
    flip: bool = False,
) -> NoisedBatch:
    """Noise a batch at random VP times.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) carried along.
        rng: source of times, noise and flips.
        t_min: smallest VP time.
        uniform_fraction: share of the batch with uniform times; the rest is importance-sampled.
        flip: mirror half of the pictures.

    Returns:
        The noised batch on the images' device.

    Source: Kim et al. 2023, training of the discriminator.
    """
    count, device = images.shape[0], images.device
    u = torch.from_numpy(rng.random(count))
    uniform = round(uniform_fraction * count)
    t = torch.cat([uniform_times(u[:uniform], t_min), importance_times(u[uniform:], t_min)]).to(device)
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32)).to(device)
    pictures = scaled(images)
    if flip:
        mirrored = torch.from_numpy(rng.random(count) < 0.5).to(device).view(-1, 1, 1, 1)
        pictures = torch.where(mirrored, pictures.flip(3), pictures)
    return NoisedBatch(vp_noised(pictures, t, noise), t.float(), labels)


@dataclass(frozen=True)
class Split:
    """Row numbers of the training, validation and test images in real ++ fake."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_pairs(real: int, fake: int, train: float, validation: float, seed: int, most: int | None = None) -> Split:
    """The one fixed split of real and fake, the same for all members.

    Args:
        real: number of real images, rows 0 .. real - 1.
        fake: number of fake images, the rows that follow.
        train: share for training.
        validation: share for validation; the rest is the test set.
        seed: of the permutation.
        most: images used of each kind; None uses all.

    Returns:
        The three sets of rows; real and fake are split separately, so both have the same shares in each.
    """
    parts: list[list[np.ndarray]] = [[], [], []]
    for label, (first, count) in enumerate([(0, real), (real, fake)]):
        rows = first + generator(seed, "split", label, 0).permutation(count)[:most]
        ends = [round(train * len(rows)), round((train + validation) * len(rows))]
        for part, chunk in zip(parts, np.split(rows, ends), strict=True):
            part.append(chunk)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def bootstrap_rows(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Training images of one bagged member, drawn with replacement.

    Args:
        rows: the training images.
        share: how many are drawn, relative to their number.
        seed: of the member.

    Returns:
        Rows, sorted, some of them several times.

    Source: Breiman 1996.
    """
    count = max(1, round(share * len(rows)))
    return np.sort(generator(seed, "bagging", 0, 0).choice(rows, count, replace=True))


def grid_pairs(rows: np.ndarray, times: int, times_per_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Which image is looked at on which time of the common grid.

    Args:
        rows: image rows.
        times: number of grid times.
        times_per_image: how many of them each image sees.

    Returns:
        row of the image and index of the time, one entry for each pair; all times are used equally often.
    """
    image = np.repeat(rows, times_per_image)
    index = (np.arange(len(rows) * times_per_image)) % times
    return image, index
