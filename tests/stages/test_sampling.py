"""One batch of samples: its classes, its random streams, what it is guided by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dguide.stages.guided import Arrays, Networks, draw
from discriminator_guidance.core.runtime import Compute

from .conftest import Tiny, tiny_settings, write_params

CLASSES = 3


class Levels(nn.Module):
    """A score network in which an image becomes grey level -0.9, 0 or 0.9, by its class."""

    img_channels, img_resolution, label_dim = 1, 2, CLASSES

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor) -> Tensor:
        level = (class_labels.argmax(1).double() - 1).view(-1, 1, 1, 1) * 0.45
        return 2 * level * 0.9 + 0.1 * x / (1 + sigma.view(-1, 1, 1, 1))


class ClassLogits(nn.Module):
    """A discriminator whose logit is the class, but for a slope."""

    def forward(self, x_vp: Tensor, tau: Tensor, labels: Tensor) -> Tensor:
        return ((labels - 1) + 0.001 * x_vp.flatten(1).mean(1)).unsqueeze(0)


@pytest.fixture
def drawn(tiny: Tiny):
    """Samples of a variant with churn and boosting, drawn in batches and put together."""
    row = tiny_settings()["variants"]["d0"] | {"w1": 1.0, "w2": 1.0, "boosting": True, "s_churn": 10.0}
    config, layout = write_params(tiny[1].root, tiny_settings({"variants.d0": row, "sampler.sigma_min": 0.2}))
    networks = Networks(Compute(torch.device("cpu"), "float32"), Levels(), ClassLogits())

    def draw_batches(*batches: range, seed: int = 7) -> Arrays:
        variant = config.variants["d0"]
        parts = [arrays for _, arrays, _ in draw(config, layout, variant, seed, batches, "", networks, True)]
        axes = {"states": 1, "denoised": 1, "log_ratio": 1}
        return {name: np.concatenate([part[name] for part in parts], axes.get(name, 0)) for name in parts[0]}

    return draw_batches


def test_batches_change_nothing(drawn) -> None:
    whole = drawn(range(100, 117))
    parts = drawn(range(100, 105), range(105, 106), range(106, 117))
    assert len(set(parts["sigma"])) == 5, "of every batch the same noise levels"
    for name in whole.keys() - {"sigma"}:
        assert np.array_equal(whole[name], parts[name]), name


def test_every_sample_is_drawn_with_the_class_that_is_recorded(drawn) -> None:
    samples = drawn(range(300))
    nearest = np.abs(samples["images"].mean(axis=(1, 2, 3))[:, None] - [24, 128, 231]).argmin(axis=1)
    assert nearest.tolist() == samples["labels"].tolist()
    assert np.array_equal(samples["log_ratio"][0].round(), samples["labels"] - 1)
    assert np.bincount(samples["labels"]).min() > 70
    assert drawn(range(300), seed=8)["labels"].tolist() != samples["labels"].tolist()
