"""The mean logit whose gradient is shrunk where the members disagree."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from discriminator_guidance.sampling.guidance import DiscriminatorGuidance

N, SHAPE, SHRUNK = 500, (2, 4, 4), "shrunk_mean_logit"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn((*shape, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, SIGMA = normal(N, seed=1), torch.full((N,), 0.7, dtype=torch.float64)


def linear(slopes: Tensor):
    """Members (M, N, C, H, W) whose logits have these gradients everywhere."""
    return lambda x_vp, tau: (slopes * x_vp).flatten(2).sum(2)


def score(members, rule: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    count = len(members(X, SIGMA))
    return DiscriminatorGuidance(members, rule=rule, window=(0.0, 1.0), dtype=dtype, members=count)(X, SIGMA)


@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_members_that_contradict_each_other_or_say_nothing_give_no_guidance(slope):
    slopes = slope * normal(N)
    assert torch.equal(score(linear(torch.stack([slopes, -slopes])), SHRUNK)[0], torch.zeros_like(X))


def test_each_sample_is_shrunk_by_its_own_formula():
    slopes = 0.5 + normal(3, N)
    (mean, _), (shrunk, _) = (score(linear(slopes), rule) for rule in ("mean_logit", SHRUNK))
    for row in range(0, N, 50):
        g = slopes[:, row].mean(0)
        scatter = sum(((slopes[m, row] - g) ** 2).sum() for m in range(3))
        s = max(0.0, 1 - scatter.item() / (3 * 2 * (g**2).sum().item()))
        assert torch.allclose(shrunk[row], s * mean[row])


@pytest.mark.parametrize("strength", [0.0, 0.3, 3.0])
def test_shrinkage_brings_noisy_gradients_nearer_to_the_true_one(strength):
    true = strength * normal(N, seed=2)
    noisy = linear(true + normal(4, N, seed=3))
    exact = score(linear(true.unsqueeze(0)), "mean_logit")[0]
    mean, shrunk = (score(noisy, rule)[0] for rule in ("mean_logit", SHRUNK))
    loss = [(estimate - exact).square().sum().item() for estimate in (mean, shrunk)]
    # Of a true gradient of variance strength^2 and a noise of 1/4 in the mean, this share of the error remains.
    assert loss[1] / loss[0] == pytest.approx(strength**2 / (strength**2 + 0.25), abs=0.05)


def test_a_logit_that_is_not_finite_is_not_hidden():
    def logits(x_vp: Tensor, tau: Tensor) -> Tensor:
        return linear(normal(2, N))(x_vp, tau) + torch.tensor([[math.inf], [0.0]])

    guided, ratio = score(logits, SHRUNK, torch.float32)
    assert guided.isnan().all()
    assert not ratio.isfinite().any()
