"""Training of the EDM denoiser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from discriminator_guidance.diffusion.noise_levels import lognormal_sigmas, loss_weight
from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.loop import Batch, Checkpoints, Row, Schedule, train
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
    classes: Tensor | None,
    schedule: Schedule,
    p_mean: float,
    p_std: float,
    sigma_data: float,
    ema_decay: float,
    compute: Compute,
    at_once: BatchSize,
    checkpoints: Checkpoints,
    on_iterations: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
) -> tuple[nn.Module, list[Row]]:
    """Train a denoiser with the EDM loss.

    Args:
        network: D(x, sigma[, classes]).
        images: (N, C, H, W) uint8 on the device.
        classes: (N, label_dim) one-hot classes for a conditional network; None for an unconditional one.
        schedule: length and speed.
        p_mean: mean of ln sigma.
        p_std: standard deviation of ln sigma.
        sigma_data: standard deviation of the data.
        ema_decay: decay of the averaged weights.
        compute: device and precision.
        at_once: pictures in one pass.
        checkpoints: where resumable states go.
        on_iterations: progress.
        on_metrics: training curve.

    Returns:
        The averaged network and the rows of the training curve.

    Source: Karras et al. 2022, Section 5.
    """

    def batch_of(iteration: int) -> Batch:
        rng = generator(schedule.seed, "score", iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=schedule.batch_size)).to(images.device)
        clean = scaled(images[rows])
        z = torch.from_numpy(rng.standard_normal(schedule.batch_size, dtype=np.float32)).to(images.device)
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(images.device)
        sigma = lognormal_sigmas(z, p_mean, p_std)
        noisy = clean + sigma.view(-1, 1, 1, 1) * noise
        return (noisy, sigma, clean) if classes is None else (noisy, sigma, clean, classes[rows])

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        noisy, sigma, clean, *condition = batch
        with compute.autocast():
            denoised = network(noisy, sigma, *condition)
        return edm_loss(denoised.float(), clean, sigma, sigma_data), {}

    return train(network, batch_of, loss_of, schedule, at_once, checkpoints, on_iterations, on_metrics, ema_decay)
