"""The three ensemble rules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from discriminator_guidance.sampling.guidance import RULES, DiscriminatorGuidance, mean_probability

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
