"""Training of the classifiers: the extractor, whose features feed the discriminators, and the FID network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from discriminator_guidance.noise import generator
from discriminator_guidance.runtime import Compute
from discriminator_guidance.settings import TrainingSettings
from discriminator_guidance.training.loop import Batch, Checkpoints, Report, Row, train
from discriminator_guidance.training.pairs import draw_noised, scaled


def train_classifier(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    compute: Compute,
    checkpoints: Checkpoints | None = None,
    report: Report | None = None,
    noising: tuple[float, float] | None = None,
) -> tuple[nn.Module, list[Row]]:
    """Train image -> class logits on images (N, C, H, W) uint8; with noising (x_vp, t) -> class logits.

    noising: the smallest VP time, and the share of times that are uniform, see `draw_noised`. Dhariwal & Nichol 2021,
    Section 4.
    """
    purpose = "fid_network" if noising is None else "extractor"

    def batch_of(iteration: int) -> Batch:
        rng = generator(settings.seed, purpose, iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=settings.batch_size)).to(images.device)
        if noising is None:
            return scaled(images[rows]), labels[rows]
        return *draw_noised(images[rows], rng, *noising), labels[rows]

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        *inputs, classes = batch
        with compute.autocast():
            logits = network(*inputs)
        accuracy = (logits.argmax(1) == classes).float().mean().item()
        return cross_entropy(logits.float(), classes), {"accuracy": accuracy}

    return train(network, batch_of, loss_of, settings, checkpoints, report)
