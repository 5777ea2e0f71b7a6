"""What the clipped rule makes of logits, and the slope that says whether they hold information."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from discriminator_guidance.guidance.ensemble import clipped_logit_mean
from discriminator_guidance.studies.factorial import share_and_amplification
from discriminator_guidance.studies.factorial_record import platt_slope


def test_share_and_amplification_are_those_of_the_rules_gradient():
    logits = torch.linspace(-1, 2, 301, dtype=torch.float64, requires_grad=True)
    log_ratio = clipped_logit_mean(logits[None], torch.ones(1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_ratio.sum(), logits)
    inside = (logits > 0.001) & (logits < 0.999)
    expected = [inside.double().mean().item(), gradient[inside].mean().item()]
    # From logits, and from log ratios as a sampler keeps them.
    for mistaken in (logits.detach().numpy(), expit(log_ratio.detach().float().numpy().astype(np.float64))):
        assert [*share_and_amplification(mistaken).values()] == pytest.approx(expected, rel=1e-5)
    assert share_and_amplification(np.array([-0.1, 0.0, 1.0, 5.0])) == {"share_in_unit": 0.0, "amplification": None}


def test_the_slope_of_logits_is_found_within_its_error():
    rng, slopes, errors = np.random.default_rng(0), [], []
    for _ in range(40):
        logits = rng.normal(0.3, 0.5, 800)
        slope, error = platt_slope(logits, rng.random(800) < expit(0.2 + 1.5 * logits))
        slopes.append(slope)
        errors.append(error)
    assert np.mean(slopes) == pytest.approx(1.5, abs=0.1)
    assert np.std(slopes) == pytest.approx(np.mean(errors), rel=0.3)


def test_classes_that_a_threshold_separates_have_a_finite_slope():
    slope, error = platt_slope(np.linspace(-1, 1, 16), np.repeat([0, 1], 8))
    assert 5 < slope < 1e4
    assert np.isfinite(error)
