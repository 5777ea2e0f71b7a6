"""One batch of samples: its classes, its random streams, what it is guided by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.guidance.density_ratio import Guidance
from discriminator_guidance.guidance.sampler import SamplerSettings
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.sampling import draw_batch, sampler_settings, window_of

from .conftest import Tiny

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


def draw(*ranges: range, guidance=guidance_of) -> dict[str, np.ndarray]:
    """Samples drawn in batches, put together."""
    parts = [draw_batch(Levels(), guidance, SETTINGS, 7, indices, len(indices), CPU) for indices in ranges]
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
    other = draw_batch(Levels(), guidance_of, SETTINGS, 8, range(300), 0, CPU)
    assert other["labels"].tolist() != drawn["labels"].tolist()


def test_samples_are_independent_and_kept_states_are_the_first() -> None:
    drawn = draw(range(20))
    starts = drawn["states"][0].reshape(20, -1)
    assert len({row.tobytes() for row in starts}) == 20
    assert abs(starts.std() / 80 - 1) < 0.2
    kept = draw_batch(Levels(), guidance_of, SETTINGS, 7, range(20), 3, CPU)["states"]
    assert np.array_equal(kept, drawn["states"][:, :3])


def test_a_sample_that_is_not_finite_is_refused() -> None:
    def broken(classes: Tensor | None) -> Guidance:
        def guidance(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            score = 0.01 * x
            score[2] = torch.nan
            return score, torch.zeros(len(x), dtype=torch.float64)

        return guidance

    with pytest.raises(DivergenceError, match="finite"):
        draw(range(4), guidance=broken)


def test_a_variant_may_have_steps_and_a_window_of_its_own(tiny: Tiny) -> None:
    config, variant = tiny[0], tiny[0].variants["d0_table1"]
    shared = sampler_settings(config, variant)
    assert (shared.steps, shared.w1, shared.w2, shared.boosting) == (4, 2.0, 0.0, True)
    assert window_of(config, variant) == (0.01, 1.0)
    own = variant.model_copy(update={"steps": 35, "window": (0.1, 0.2)})
    assert sampler_settings(config, own).steps == 35
    assert window_of(config, own) == (0.1, 0.2)
