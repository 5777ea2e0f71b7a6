"""The sampler against Gaussian oracles, and its order by regression."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from discriminator_guidance.core.errors import DivergenceError
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import heun as sample

from .gaussians import Gaussian, no_noise, seeded_latents, settings

TRUE = Gaussian(mean=0.3, std=0.4)


def exact_flow(gaussian: Gaussian, start: Tensor, sigma_max: float) -> Tensor:
    """The probability-flow solution of Gaussian data from sigma_max to 0."""
    scale = gaussian.std / math.sqrt(gaussian.std**2 + sigma_max**2)
    return gaussian.mean + (start - gaussian.mean) * scale


def test_heun_is_of_second_order():
    latents = seeded_latents(16)
    exact = exact_flow(TRUE, latents * 80.0, 80.0)
    steps = np.array([40, 80, 160, 320])
    # The last Euler step to sigma = 0 is exact to O(sigma_min^2), so sigma_min is taken small.
    chosen = [settings(steps=int(count), sigma_min=1e-5) for count in steps]
    errors = [(sample(TRUE.denoise, None, latents, no_noise, each) - exact).abs().max().item() for each in chosen]
    assert 1.8 < -np.polyfit(np.log(steps), np.log(errors), 1)[0] < 2.4


def test_churn_keeps_the_distribution():
    latents, random = seeded_latents(4000), torch.Generator().manual_seed(8)

    def noise(step: int, raised: Tensor) -> Tensor:
        assert bool(raised.all())
        return torch.randn(latents.shape, generator=random)

    drawn = sample(TRUE.denoise, None, latents, noise, settings(s_churn=20.0, steps=120))
    deterministic = sample(TRUE.denoise, None, latents, no_noise, settings(steps=120))
    assert (drawn - deterministic).abs().mean() > 0.1
    assert abs(drawn.mean().item() - TRUE.mean) < 0.01
    assert abs(drawn.std().item() - TRUE.std) < 0.01


@pytest.mark.parametrize(("weights", "wrong"), [({"w1": 1.0}, math.inf), ({"w2": 1.0}, math.nan)])
def test_a_logit_that_is_not_finite_stops_the_sampler(weights, wrong):
    def logits(x_vp: Tensor, tau: Tensor) -> Tensor:
        return (x_vp.flatten(1).sum(1) + torch.tensor([0.0, wrong])).unsqueeze(0)

    guidance = DiscriminatorGuidance(logits, window=(0.0, 1.0))
    with pytest.raises(DivergenceError, match=r"row 1 of the batch is not finite after step 1, at sigma = 80;"):
        sample(TRUE.denoise, guidance, seeded_latents(2), no_noise, settings(steps=4, **weights))


def test_a_denoiser_that_is_not_finite_stops_the_sampler_at_its_step():
    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(sigma.view(-1, 1, 1, 1) < 1.0, torch.nan, TRUE.denoise(x, sigma))

    with pytest.raises(DivergenceError, match=r"row 0 of the batch is not finite after step [2-6]"):
        sample(denoiser, None, seeded_latents(2), no_noise, settings(steps=6))
