"""Training of the time-conditional classifier whose frozen features feed the discriminators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.loop import Batch, Checkpoints, Report, Row, Schedule, train
from discriminator_guidance.training.pairs import draw_noised


@dataclass(frozen=True)
class ExtractorSettings:
    """Training of a classifier at VP times in [t_min, 1], the share `uniform_fraction` of them uniform."""

    schedule: Schedule
    t_min: float
    uniform_fraction: float


def train_extractor(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: ExtractorSettings,
    compute: Compute,
    checkpoints: Checkpoints,
    report: Report,
) -> tuple[nn.Module, list[Row]]:
    """Train (x_vp, t) -> class logits on noised images (N, C, H, W) uint8 (Dhariwal & Nichol 2021, Section 4)."""

    def batch_of(iteration: int) -> Batch:
        rng = generator(settings.schedule.seed, "extractor", iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=settings.schedule.batch_size)).to(images.device)
        x_vp, t = draw_noised(images[rows], rng, settings.t_min, settings.uniform_fraction)
        return x_vp, t, labels[rows]

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        x_vp, t, classes = batch
        with compute.autocast():
            logits = network(x_vp, t)
        return classification_loss(logits.float(), classes)

    return train(network, batch_of, loss_of, settings.schedule, checkpoints, report)


def classification_loss(logits: Tensor, classes: Tensor) -> tuple[Tensor, Row]:
    """Mean cross-entropy, and the accuracy to log."""
    accuracy = (logits.argmax(1) == classes).float().mean().item()
    return cross_entropy(logits, classes), {"accuracy": accuracy}
