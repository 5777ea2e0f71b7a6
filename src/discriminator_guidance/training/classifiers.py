"""Training of the classifiers: the extractor, whose features feed the discriminators, and the FID network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from discriminator_guidance.core.files import Resumable
from discriminator_guidance.core.images import as_tensor, scaled
from discriminator_guidance.core.noise import generator
from discriminator_guidance.core.runtime import Compute
from discriminator_guidance.core.settings import TrainingSettings
from discriminator_guidance.training.loop import Batch, Report, Row, Schedule, train
from discriminator_guidance.training.pairs import draw_noised


def train_classifier(
    network: nn.Module,
    real: Mapping[str, np.ndarray],
    settings: TrainingSettings,
    compute: Compute,
    checkpoints: Resumable | None = None,
    report: Report | None = None,
    noising: tuple[float, float] | None = None,
) -> list[Row]:
    """Train image -> class logits, with noising (x_vp, t) -> class logits; returns the curve.

    real: "images" (N, H, W, C) uint8 and "labels" (N,). noising: the smallest VP time, and the share of times that are
    uniform, see `draw_noised`. Dhariwal & Nichol 2021, Section 4.
    """
    purpose, network = "fid_network" if noising is None else "extractor", network.to(compute.device)
    images, labels = as_tensor(real["images"], compute.device), torch.from_numpy(real["labels"]).to(compute.device)

    def batch_of(iteration: int) -> Batch:
        rng = generator(settings.seed, purpose, iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=settings.batch_size)).to(images.device)
        inputs = (scaled(images[rows]),) if noising is None else draw_noised(scaled(images[rows]), rng, *noising)
        return *inputs, labels[rows]

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        *inputs, classes = batch
        with compute.autocast():
            logits = network(*inputs)
        accuracy = (logits.argmax(1) == classes).float().mean().item()
        return cross_entropy(logits.float(), classes), {"accuracy": accuracy}

    return train(network, batch_of, loss_of, Schedule.of(settings), checkpoints, report).history
