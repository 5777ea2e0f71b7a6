"""Training of the small classifier whose penultimate features define the Frechet distance of a small study."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.extractor import classification_loss
from discriminator_guidance.training.loop import Batch, Checkpoints, Report, Row, Schedule, train
from discriminator_guidance.training.pairs import scaled


def train_fid_network(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    schedule: Schedule,
    compute: Compute,
    checkpoints: Checkpoints,
    report: Report,
) -> tuple[nn.Module, list[Row]]:
    """Train image -> class logits on clean images (N, C, H, W) uint8."""

    def batch_of(iteration: int) -> Batch:
        rng = generator(schedule.seed, "fid_network", iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=schedule.batch_size)).to(images.device)
        return images[rows], labels[rows]

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        chosen, classes = batch
        with compute.autocast():
            logits = network(scaled(chosen))
        return classification_loss(logits.float(), classes)

    return train(network, batch_of, loss_of, schedule, checkpoints, report)
