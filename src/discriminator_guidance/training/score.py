"""Training of the EDM denoiser."""

import copy
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from discriminator_guidance.core.files import Resumable
from discriminator_guidance.core.noise import generator, scaled
from discriminator_guidance.core.runtime import Compute
from discriminator_guidance.core.settings import FineTuningSettings, ScoreSettings
from discriminator_guidance.training.loop import Batch, Report, Row, Schedule, Trained, train

HOLDOUT_DRAWS = 4


def train_score(
    network: nn.Module,
    images: Tensor,
    classes: Tensor | None,
    settings: ScoreSettings,
    compute: Compute,
    checkpoints: Resumable | None = None,
    report: Report | None = None,
    snapshots: Collection[int] = (),
) -> Trained:
    """Train D(x, sigma[, classes]) on images (N, C, H, W) uint8, with their classes (N,) if it is conditional.

    The network to use is the averaged one; snapshots: see `loop.train` (Karras et al. 2022, Section 5).
    """

    def batch_of(iteration: int) -> Batch:
        rng = generator(settings.training.seed, "score", iteration, 0)
        return _noisy(images, classes, rng.integers(len(images), size=settings.training.batch_size), rng, settings)

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        return _losses(network, batch, settings, compute).mean(), {}

    schedule = Schedule.of(settings.training, ema_decay=settings.ema_decay)
    return train(network, batch_of, loss_of, schedule, checkpoints, report, snapshots)


def finetune_score(
    network: nn.Module,
    images: Tensor,
    classes: Tensor | None,
    settings: ScoreSettings,
    tuning: FineTuningSettings,
    compute: Compute,
    fakes: Tensor | None = None,
    checkpoints: Resumable | None = None,
) -> nn.Module:
    """A copy of a denoiser, trained further on images (N, C, H, W) uint8; the averaged network.

    With `fakes`, samples of the denoiser that are as images, by direct discriminative optimisation: the cross-entropy
    of sigmoid(r) between images and fakes, where r = beta (loss of the denoiser - loss of the copy), summed over the
    pixels, stands for the log ratio of the copy's density to the denoiser's (Zheng et al. 2025, Section 3.2).
    """
    tuned, size = copy.deepcopy(network).train().requires_grad_(True), settings.training.batch_size

    def batch_of(iteration: int) -> Batch:
        rng = generator(tuning.seed, "finetuning", iteration, 0)
        batch = _noisy(images, classes, rng.integers(len(images), size=size), rng, settings)
        if fakes is None:
            return batch
        others = _noisy(fakes, classes, rng.integers(len(fakes), size=size), rng, settings)
        real = torch.cat([torch.ones(size, device=images.device), torch.zeros(size, device=images.device)])
        return real, *(torch.cat(pair) for pair in zip(batch, others, strict=True))

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        if fakes is None:
            return _losses(tuned, batch, settings, compute).mean(), {}
        real, *noisy = batch
        with torch.no_grad():
            before = _losses(network, (*noisy,), settings, compute)
        ratio = tuning.beta * (before - _losses(tuned, (*noisy,), settings, compute)).flatten(1).sum(dim=1)
        return binary_cross_entropy_with_logits(ratio, real), {}

    changes = {key: getattr(tuning, key) for key in ("iterations", "learning_rate", "seed")} | {"decay_fraction": 0.0}
    schedule = Schedule.of(settings.training, ema_decay=settings.ema_decay, **changes)
    return train(tuned, batch_of, loss_of, schedule, checkpoints).network


@torch.no_grad()
def holdout_loss(
    network: nn.Module, images: Tensor, classes: Tensor | None, settings: ScoreSettings, compute: Compute
) -> float:
    """The mean loss on images that the network was not trained on, each with HOLDOUT_DRAWS draws of noise."""
    rng, total = generator(settings.training.seed, "holdout loss", 0, 0), 0.0
    rows = np.tile(np.arange(len(images)), HOLDOUT_DRAWS)
    for part in np.split(rows, range(settings.training.batch_size, len(rows), settings.training.batch_size)):
        noisy = _noisy(images, classes, part, rng, settings)
        total += len(part) * _losses(network, noisy, settings, compute).mean().item()
    return total / len(rows)


def _noisy(
    images: Tensor, classes: Tensor | None, rows: np.ndarray, rng: np.random.Generator, settings: ScoreSettings
) -> Batch:
    clean = scaled(images[rows])
    z = torch.from_numpy(rng.standard_normal(len(rows), dtype=np.float32)).to(images.device)
    noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(images.device)
    sigma = (settings.p_mean + settings.p_std * z).exp()  # Karras et al. 2022, Table 1
    noisy = clean + sigma.view(-1, 1, 1, 1) * noise
    return (noisy, sigma, clean) if classes is None else (noisy, sigma, clean, classes[rows])


def _losses(network: nn.Module, batch: Batch, settings: ScoreSettings, compute: Compute) -> Tensor:
    """lambda(sigma) (D(clean + sigma n; sigma) - clean)^2 of every pixel (Karras et al. 2022, Eq. 2 and Table 1)."""
    (noisy, sigma, clean, *condition), sigma_data = batch, settings.sigma_data
    with compute.autocast():
        denoised: Tensor = network(noisy, sigma, *condition)
    weight = ((sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2).view(-1, 1, 1, 1)
    return weight * (denoised.float() - clean) ** 2
