"""The law of the clipped-logit rule, against an exact sampler in one dimension."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dguide.studies.factorial import displacement
from discriminator_guidance import DiscriminatorGuidance, sample
from discriminator_guidance.core.noise import karras_sigmas, marginal_mean, sigma_from_tau

STD = 0.5


def test_constant_logits_move_a_sample_as_the_integral_says() -> None:
    """p dp = w |g|^2 ds has the solution p^2 = p_0^2 + 2 w |g|^2 s, for any number of levels; negative logits stay."""
    spans, start, slope = np.full(30, 0.1), np.array([-0.01, 0.0, 0.002, 0.05]), 0.01
    moved = displacement(np.tile(start, (30, 1)), np.full((30, 4), slope), spans, 0.9)
    ratio = start / slope
    assert moved[2:] == pytest.approx(np.sqrt(ratio**2 + 2 * 0.9 * 3)[2:] - ratio[2:])
    assert moved[0] == 0
    tenth = displacement(np.tile(start / 10, (30, 1)), np.full((30, 4), slope / 10), spans, 0.9)
    assert tenth == pytest.approx(moved), "the size of the logits cancels"
    boosted = [displacement(start[None], np.full((1, 4), slope), spans[:1], 0.9, True, first) for first in (0, 1)]
    assert (boosted[0][2:] > boosted[1][2:]).all(), "the first step is boosted, the second not"


def test_the_law_predicts_the_harm_of_the_rule_to_exact_discriminators() -> None:
    """Data N(m, 1/4), model N(-m, 1/4): exact guidance is right, the rule moves samples by a standard deviation."""
    m = 0.001

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        variance = sigma.view(-1, 1, 1, 1) ** 2
        return (STD**2 * x - m * variance) / (STD**2 + variance)

    def log_ratio(x_vp: Tensor, tau: Tensor) -> Tensor:
        x = x_vp.flatten(1).sum(dim=1) / marginal_mean(tau)
        return 2 * m * x / (sigma_from_tau(tau) ** 2 + STD**2)

    def drawn(rule: str) -> np.ndarray:
        guidance = DiscriminatorGuidance(log_ratio, rule=rule, dtype=torch.float64, clip=1e-5)
        samples = sample(denoiser, (2000, 1, 1, 1), guidance=guidance, steps=100, dtype=torch.float64, progress=False)
        return np.sort(samples.flatten().numpy())

    quantiles = np.sort(m + STD * torch.special.ndtri((torch.arange(2000) + 0.5) / 2000).numpy())
    assert ((drawn("mean_probability") - quantiles) ** 2).mean() < 0.01
    harmed = drawn("clipped_logit_mean")
    assert ((harmed - quantiles) ** 2).mean() > 0.5

    levels = karras_sigmas(100, 0.002, 80.0, 7.0).numpy()[:, None]
    clean, noise = np.random.default_rng(0).standard_normal((2, 2000))
    scale, s = 2 * m / (levels[:-1] ** 2 + STD**2), np.log1p(levels**2) / 2
    logits = scale * (-m + STD * clean + levels[:-1] * noise)
    slopes = np.broadcast_to(scale * np.sqrt(1 + levels[:-1] ** 2), logits.shape)
    predicted = displacement(logits, slopes, (s[:-1] - s[1:]).ravel(), 1.0).mean()
    assert harmed.mean() + m == pytest.approx(STD * predicted, rel=0.04)
