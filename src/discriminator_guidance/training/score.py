"""Training of the EDM denoiser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from discriminator_guidance.diffusion.noise_levels import lognormal_sigmas, loss_weight
from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.loop import Checkpoints, Row, Schedule, train
from discriminator_guidance.training.pairs import scaled


def edm_loss(denoised: Tensor, clean: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """The weighted denoising error.

    Args:
        denoised: (N, C, H, W) D(clean + sigma n; sigma).
        clean: (N, C, H, W) in [-1, 1].
        sigma: (N,) noise levels.
        sigma_data: standard deviation of the data.

    Returns:
        Scalar loss.

    Source: Karras et al. 2022, Eq. 2 and Table 1.
    """
    weight = loss_weight(sigma, sigma_data).view(-1, 1, 1, 1)
    return (weight * (denoised - clean) ** 2).mean()


def train_score(
    network: nn.Module,
    images: Tensor,
    schedule: Schedule,
    p_mean: float,
    p_std: float,
    sigma_data: float,
    ema_decay: float,
    compute: Compute,
    checkpoints: Checkpoints,
    on_iterations: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
) -> tuple[nn.Module, list[Row]]:
    """Train a denoiser with the EDM loss.

    Args:
        network: D(x, sigma).
        images: (N, C, H, W) uint8 on the device.
        schedule: length and speed.
        p_mean: mean of ln sigma.
        p_std: standard deviation of ln sigma.
        sigma_data: standard deviation of the data.
        ema_decay: decay of the averaged weights.
        compute: device and precision.
        checkpoints: where resumable states go.
        on_iterations: progress.
        on_metrics: training curve.

    Returns:
        The averaged network and the rows of the training curve.

    Source: Karras et al. 2022, Section 5.
    """

    def loss_of(iteration: int) -> tuple[Tensor, Row]:
        rng = generator(schedule.seed, "score", iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=schedule.batch_size)).to(images.device)
        clean = scaled(images[rows])
        z = torch.from_numpy(rng.standard_normal(schedule.batch_size, dtype=np.float32)).to(images.device)
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(images.device)
        sigma = lognormal_sigmas(z, p_mean, p_std)
        with compute.autocast():
            denoised = network(clean + sigma.view(-1, 1, 1, 1) * noise, sigma)
        return edm_loss(denoised.float(), clean, sigma, sigma_data), {}

    return train(network, loss_of, schedule, checkpoints, on_iterations, on_metrics, ema_decay)
