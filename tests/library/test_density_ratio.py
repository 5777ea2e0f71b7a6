"""The window of the guidance score."""

from __future__ import annotations

import math

import torch

from discriminator_guidance.core.noise import sigma_from_tau
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance

from .gaussians import SHAPE, Gaussian, log_ratio_of

TRUE, WRONG = Gaussian(0.3, 0.4), Gaussian(-0.1, 0.6)


def test_window():
    tau = torch.tensor([0.005, 0.02, 0.5, 0.9], dtype=torch.float64)
    x = torch.ones((4, *SHAPE), dtype=torch.float64)
    log_ratio, expected = log_ratio_of(TRUE, WRONG), [False, True, True, False]
    score, ratio = DiscriminatorGuidance(log_ratio, window=(0.01, 0.6), dtype=torch.float64)(x, sigma_from_tau(tau))
    assert torch.isfinite(ratio).tolist() == expected
    assert (score.flatten(1).abs().sum(1) > 0).tolist() == expected


def test_network_is_not_called_when_all_samples_are_outside():
    def forbidden(x_vp, tau):
        raise AssertionError("evaluated outside the window")

    x, sigma = torch.ones((2, *SHAPE)), torch.tensor([0.001, 0.001])
    score, ratio = DiscriminatorGuidance(forbidden)(x, sigma)
    assert score.dtype == ratio.dtype == torch.float64
    assert (score == 0).all()
    assert (ratio == math.inf).all()
