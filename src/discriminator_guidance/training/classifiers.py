"""Training of the classifiers: the extractor, whose features feed the discriminators, and the FID network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import Resumable
from discriminator_guidance.core.images import class_indices
from discriminator_guidance.core.noise import as_tensor, generator, scaled
from discriminator_guidance.core.runtime import Compute, usable
from discriminator_guidance.core.settings import TrainingSettings, refuse_unknown
from discriminator_guidance.metrics.features import FidNetwork
from discriminator_guidance.training.data import Source, draw_noised, image_tensor
from discriminator_guidance.training.loop import Batch, Report, Row, Schedule, train

CHANGES = 20


def changed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images in four turns (Gidaris et al. 2018), undamaged and damaged (Jenni & Favaro 2018), to tell apart."""
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(images.device)
    jagged = images.clone()
    jagged[:, :, ::2] = images[:, :, ::2].roll(1, dims=3)
    blurred, mixed = avg_pool2d(images, 3, 1, 1, count_include_pad=False), 0.7 * images + 0.3 * images.roll(1, dims=0)
    kinds = (images, blurred, images + 0.15 * noise, mixed, jagged)
    return torch.stack([kind.rot90(turn, (2, 3)) for kind in kinds for turn in range(4)])  # (CHANGES, B, C, H, W)


def outputs(labels: np.ndarray) -> int:
    """The logits that a classifier of images with these labels has."""
    return int(labels.max()) + 1 if np.ptp(labels) else CHANGES


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
    uniform, see `draw_noised`. Dhariwal & Nichol 2021, Section 4. Of one class, the network learns the change.
    """
    purpose, network = "fid_network" if noising is None else "extractor", network.to(compute.device)
    images, labels = as_tensor(real["images"], compute.device), torch.from_numpy(real["labels"]).to(compute.device)
    one_class = not np.ptp(real["labels"])

    def batch_of(iteration: int) -> Batch:
        rng = generator(settings.seed, purpose, iteration, 0)
        rows = torch.from_numpy(rng.integers(len(images), size=settings.batch_size)).to(images.device)
        batch, classes = scaled(images[rows]), labels[rows]
        if one_class:
            classes = torch.from_numpy(rng.integers(CHANGES, size=settings.batch_size)).to(images.device)
            batch = changed(batch, rng)[classes, torch.arange(len(batch), device=batch.device)]
        return *((batch,) if noising is None else draw_noised(batch, rng, *noising)), classes

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        *inputs, classes = batch
        with compute.autocast():
            logits = network(*inputs)
        accuracy = (logits.argmax(1) == classes).float().mean().item()
        return cross_entropy(logits.float(), classes), {"accuracy": accuracy}

    return train(network, batch_of, loss_of, Schedule.of(settings), checkpoints, report).history


@torch.inference_mode(False)
def train_features(
    real: Source, labels: Any = None, *, width: int = 64, device: torch.device | str = "cpu", **settings: Any
) -> FidNetwork:
    """Train a small classifier of real images, whose `features` are a network for `frechet_distance`.

    Distances by it are not comparable with published FIDs, nor with those by another one.

    Args:
        real: square images that train no discriminator, as `train_discriminator` takes them.
        labels: their classes; None: real has them, as (images, labels) or an iterable of (image, label), or there are
            none, and the network tells turned and damaged images apart.
        width: the number of features.
        device: where to compute.
        settings: fields of `TrainingSettings`, such as iterations (800), and data_range of `train_discriminator`.

    >>> images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), dtype=np.uint8)
    >>> network = train_features((images, np.arange(20) % 2), iterations=2)
    >>> network.features(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 64])
    """
    refuse_unknown("train_features", settings, ("data_range", *vars(TrainingSettings(iterations=1))))
    source = real if labels is None else (real, labels)
    images, labels = image_tensor(source, "real", settings.pop("data_range", None), None)
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    if len(labels) != len(images) or images.shape[2] != images.shape[3] or images.shape[2] < 4 or width < 1:
        given = f"real images are {tuple(images.shape)}, for {width} features, with {len(labels)} labels"
        raise InputError(given, "give square images of 4 pixels or more, a label for each or none, and features")
    defaults: dict[str, Any] = {"iterations": 800, "batch_size": 128, "learning_rate": 3e-3, "weight_decay": 0.01}
    schedule = TrainingSettings(**defaults | {"decay_fraction": 1.0} | settings)
    labels = class_indices(labels).cpu().numpy()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(schedule.seed)
        network = FidNetwork(images.shape[2], images.shape[1], (32, 32, 64, 64), width, outputs(labels))
        arrays = {"images": images.permute(0, 2, 3, 1).numpy(), "labels": labels}
        train_classifier(network, arrays, schedule, Compute(usable(device), "float32"))
    return network.eval().requires_grad_(False)
