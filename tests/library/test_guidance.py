"""The rules for several discriminators, gradients shrunk where members disagree, and the window."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from discriminator_guidance.core.noise import sigma_from_tau
from discriminator_guidance.sampling.guidance import RULES, DiscriminatorGuidance, mean_probability

from .gaussians import SHAPE, Gaussian, log_ratio_of

TRUE, WRONG = Gaussian(0.3, 0.4), Gaussian(-0.1, 0.6)
finite = st.floats(-9, 9)


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=4), st.data())
def test_mean_probability_is_the_logit_of_the_weighted_mean(rows, data):
    logits = torch.tensor(rows, dtype=torch.float64)
    raw = torch.tensor(data.draw(st.lists(st.floats(0.01, 1), min_size=len(rows), max_size=len(rows)))).double()
    weights = raw / raw.sum()
    p = (weights.unsqueeze(1) * torch.sigmoid(logits)).sum(0)
    assert torch.allclose(mean_probability(logits, weights), torch.logit(p), atol=1e-9)


@pytest.mark.parametrize("rule", ["mean_probability", "mean_logit"])
def test_a_weight_of_zero_removes_a_member_and_keeps_gradients_finite(rule):
    logits = torch.tensor([[0.4], [-40.0]], requires_grad=True)
    value = RULES[rule](logits, torch.tensor([1.0, 0.0]))
    assert value.item() == pytest.approx(0.4, abs=1e-6)
    value.sum().backward()
    assert logits.grad.tolist() == [[pytest.approx(1.0, abs=1e-5)], [0.0]]


@pytest.mark.parametrize(("clip", "expected"), [(None, 1e4), (1e-5, 11.512915), (0.01, 4.59512)])
def test_mean_probability_is_exact_for_huge_logits_unless_clipped(clip, expected):
    logits = torch.tensor([1e4, -1e4], requires_grad=True)
    value = DiscriminatorGuidance(lambda x, tau: logits, clip=clip).log_ratio(torch.zeros(2), torch.zeros(2))
    assert value.tolist() == pytest.approx([expected, -expected], rel=1e-5)
    value.sum().backward()
    assert logits.grad.tolist() == pytest.approx([float(clip is None)] * 2)


def test_rules_take_logarithms_in_float32_for_bfloat16_logits():
    guidance = DiscriminatorGuidance(lambda x, t: x.to(torch.bfloat16))
    value = guidance.log_ratio(torch.tensor([2.0, -3.0]), torch.zeros(2))
    assert value.dtype == torch.float32
    assert value.tolist() == pytest.approx([2.0, -3.0], abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_a_logit_that_is_not_finite_is_not_hidden_by_a_clip(rule, wrong):
    logits = torch.tensor([[wrong, 1.0], [0.5, 2.0]])
    ratio = DiscriminatorGuidance(lambda x, tau: logits, rule=rule, members=2, clip=1e-5).log_ratio(
        torch.zeros(2), torch.zeros(2)
    )
    assert ratio.isnan().tolist() == [True, False]


N, SHRUNK = 500, "shrunk_mean_logit"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn((*shape, 2, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, SIGMA = drawn(N, seed=1), torch.full((N,), 0.7, dtype=torch.float64)


def linear(slopes: Tensor):
    """Members (M, N, C, H, W) whose logits have these gradients everywhere."""
    return lambda x_vp, tau: (slopes * x_vp).flatten(2).sum(2)


def score(members, rule: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    count = len(members(X, SIGMA))
    return DiscriminatorGuidance(members, rule=rule, window=(0.0, 1.0), dtype=dtype, members=count)(X, SIGMA)


@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_members_that_contradict_each_other_or_say_nothing_give_no_guidance(slope):
    slopes = slope * drawn(N)
    assert torch.equal(score(linear(torch.stack([slopes, -slopes])), SHRUNK)[0], torch.zeros_like(X))


def test_each_sample_is_shrunk_by_its_own_formula():
    slopes = 0.5 + drawn(3, N)
    (mean, _), (shrunk, _) = (score(linear(slopes), rule) for rule in ("mean_logit", SHRUNK))
    for row in range(0, N, 50):
        g = slopes[:, row].mean(0)
        scatter = sum(((slopes[m, row] - g) ** 2).sum() for m in range(3))
        s = max(0.0, 1 - scatter.item() / (3 * 2 * (g**2).sum().item()))
        assert torch.allclose(shrunk[row], s * mean[row])


@pytest.mark.parametrize("strength", [0.0, 0.3, 3.0])
def test_shrinkage_brings_noisy_gradients_nearer_to_the_true_one(strength):
    true = strength * drawn(N, seed=2)
    noisy = linear(true + drawn(4, N, seed=3))
    exact = score(linear(true.unsqueeze(0)), "mean_logit")[0]
    mean, shrunk = (score(noisy, rule)[0] for rule in ("mean_logit", SHRUNK))
    loss = [(estimate - exact).square().sum().item() for estimate in (mean, shrunk)]
    # Of a true gradient of variance strength^2 and a noise of 1/4 in the mean, this share of the error remains.
    assert loss[1] / loss[0] == pytest.approx(strength**2 / (strength**2 + 0.25), abs=0.05)


def test_a_logit_that_is_not_finite_is_not_hidden():
    def logits(x_vp: Tensor, tau: Tensor) -> Tensor:
        return linear(drawn(2, N))(x_vp, tau) + torch.tensor([[math.inf], [0.0]])

    guided, ratio = score(logits, SHRUNK, torch.float32)
    assert guided.isnan().all()
    assert not ratio.isfinite().any()


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
