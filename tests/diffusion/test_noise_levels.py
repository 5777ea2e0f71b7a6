"""EDM noise levels."""

from __future__ import annotations

import math

import pytest
import torch

from discriminator_guidance.diffusion.noise_levels import churn_gamma, karras_sigmas, loss_weight


@pytest.mark.parametrize("steps", [2, 12, 35])
def test_schedule_runs_from_sigma_max_to_sigma_min_to_zero(steps):
    sigmas = karras_sigmas(steps, 0.002, 80.0, 7.0)
    assert len(sigmas) == steps + 1
    assert sigmas[0].item() == pytest.approx(80.0)
    assert sigmas[-2].item() == pytest.approx(0.002)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_churn_is_capped():
    gamma = churn_gamma(torch.tensor([0.0, 4.0, 1000.0]), 12)
    assert gamma.tolist() == pytest.approx([0.0, 4 / 12, math.sqrt(2) - 1])


def test_loss_weight_is_one_over_c_out_squared():
    sigma, sigma_data = torch.tensor([0.01, 0.5, 80.0]), 0.5
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
    assert torch.allclose(loss_weight(sigma, sigma_data), 1 / c_out**2)
