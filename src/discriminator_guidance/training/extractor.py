"""Training of the time-conditional encoder classifier whose frozen features feed the discriminators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.loop import Batch, Checkpoints, Row, Schedule, train
from discriminator_guidance.training.pairs import draw_noised


def train_extractor(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    schedule: Schedule,
    t_min: float,
    uniform_fraction: float,
    compute: Compute,
    at_once: BatchSize,
    checkpoints: Checkpoints,
    on_iterations: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
) -> tuple[nn.Module, list[Row]]:
    """Train a classifier of VP-noised pictures.

    Args:
        network: (x_vp, t) -> class logits.
        images: (N, C, H, W) uint8 on the device.
        labels: (N,) class indices.
        schedule: length and speed.
        t_min: smallest VP time.
        uniform_fraction: share of each batch with uniform times; the rest is importance-sampled.
        compute: device and precision.
        at_once: pictures in one pass.
        checkpoints: where resumable states go.
        on_iterations: progress.
        on_metrics: training curve.

    Returns:
        The network and the rows of the training curve.

    Source: Dhariwal & Nichol 2021 (noisy classifier); Kim et al. 2023 use it as frozen feature extractor.
    """

    def batch_of(iteration: int) -> Batch:
        rng = generator(schedule.seed, "extractor", iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=schedule.batch_size)).to(images.device)
        noised = draw_noised(images[rows], labels[rows], rng, t_min, uniform_fraction)
        return noised.x_vp, noised.t, noised.labels

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        x_vp, t, classes = batch
        with compute.autocast():
            logits = network(x_vp, t)
        logits = logits.float()
        accuracy = (logits.argmax(1) == classes).float().mean().item()
        return cross_entropy(logits, classes), {"accuracy": accuracy}

    return train(network, batch_of, loss_of, schedule, at_once, checkpoints, on_iterations, on_metrics)
