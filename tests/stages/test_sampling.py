"""One batch of samples: its classes, its random streams, what it is guided by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dguide.stages.sampling import OpenVariant
from discriminator_guidance.guidance import Guidance
from discriminator_guidance.runtime import Compute
from discriminator_guidance.sampler import SamplerSettings

CPU = Compute(torch.device("cpu"), "float32")
SETTINGS = SamplerSettings(4, 0.2, 80.0, 7.0, 10.0, 0.0, float("inf"), 1.0, 1.0, 1.0, 1.0, True)  # churn and boosting
CLASSES = 3


class Levels(nn.Module):
    """A score network in which an image becomes grey level -0.9, 0 or 0.9, by its class."""

    img_channels, img_resolution, label_dim = 1, 2, CLASSES

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        level = (labels.argmax(1).double() - 1).view(-1, 1, 1, 1) * 0.45
        return 2 * level * 0.9 + 0.1 * x / (1 + sigma.view(-1, 1, 1, 1))


def guidance_of(classes: Tensor | None) -> Guidance:
    assert classes is not None
    return lambda x, sigma: (0.01 * x, (classes - 1).double())


OPENED = OpenVariant(Levels(), guidance_of, SETTINGS, CPU)


def draw(*ranges: range) -> dict[str, np.ndarray]:
    """Samples drawn in batches, put together."""
    parts = [OPENED.draw(7, indices, len(indices)) for indices in ranges]
    axes = {"images": 0, "labels": 0, "states": 1, "denoised": 1, "log_ratio": 1}
    return {name: np.concatenate([part[name] for part in parts], axis) for name, axis in axes.items()}


def test_batches_change_nothing() -> None:
    whole = draw(range(100, 117))
    parts = draw(range(100, 105), range(105, 106), range(106, 117))
    for name, array in whole.items():
        assert np.array_equal(array, parts[name]), name


def test_every_sample_is_drawn_with_the_class_that_is_recorded() -> None:
    drawn = draw(range(300))
    nearest = np.abs(drawn["images"].mean(axis=(1, 2, 3))[:, None] - [24, 128, 231]).argmin(axis=1)
    assert nearest.tolist() == drawn["labels"].tolist()
    assert np.array_equal(drawn["log_ratio"][0], drawn["labels"] - 1)
    assert np.bincount(drawn["labels"]).min() > 70
    other = OPENED.draw(8, range(300))
    assert other["labels"].tolist() != drawn["labels"].tolist()
