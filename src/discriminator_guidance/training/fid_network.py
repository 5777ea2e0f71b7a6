"""Training of the small classifier whose penultimate features define the Frechet distance of a small study."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.loop import Batch, Checkpoints, Row, Schedule, train
from discriminator_guidance.training.pairs import scaled


def train_fid_network(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    schedule: Schedule,
    compute: Compute,
    at_once: BatchSize,
    checkpoints: Checkpoints,
    on_iterations: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
) -> tuple[nn.Module, list[Row]]:
    """Train a classifier of clean pictures.

    Args:
        network: picture -> class logits.
        images: (N, C, H, W) uint8 on the device.
        labels: (N,) class indices.
        schedule: length and speed.
        compute: device and precision.
        at_once: pictures in one pass.
        checkpoints: where resumable states go.
        on_iterations: progress.
        on_metrics: training curve.

    Returns:
        The network and the rows of the training curve.
    """

    def batch_of(iteration: int) -> Batch:
        rng = generator(schedule.seed, "fid_network", iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=schedule.batch_size)).to(images.device)
        return images[rows], labels[rows]

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        pictures, classes = batch
        with compute.autocast():
            logits = network(scaled(pictures))
        logits = logits.float()
        accuracy = (logits.argmax(1) == classes).float().mean().item()
        return cross_entropy(logits, classes), {"accuracy": accuracy}

    return train(network, batch_of, loss_of, schedule, at_once, checkpoints, on_iterations, on_metrics)
