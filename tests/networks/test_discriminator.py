"""Discriminators: what is frozen, what gradients reach, and members that share one feature pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from discriminator_guidance.networks.adm import EncoderUNet, build_extractor, build_head
from discriminator_guidance.networks.discriminator import Discriminator, MemberLogits
from discriminator_guidance.networks.precision import Compute
from tests.networks.conftest import shuffled


def test_members_equal_separate_discriminators(
    extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor
) -> None:
    together = MemberLogits(extractor, heads)(x, tau)
    alone = torch.stack([Discriminator(extractor, head).eval().logits(x, tau) for head in heads])
    assert together.shape == (3, 6)
    assert torch.equal(together, alone)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_features_are_computed_once(extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor) -> None:
    passes: list[int] = []
    extractor.middle_block[0].register_forward_hook(lambda *_: passes.append(1))
    MemberLogits(extractor, heads)(x, tau)
    assert len(passes) == 1


def test_member_gradients_reach_the_picture_alone(
    extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor
) -> None:
    members = MemberLogits(extractor, heads).train()
    x.requires_grad_()
    members(x, tau).sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().amax(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in members.parameters())
    assert not any(module.training for module in members.modules())


def test_gradient_is_the_derivative(extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor) -> None:
    members = MemberLogits(extractor, heads).double()
    x, direction, step = x.double().requires_grad_(), torch.randn_like(x, dtype=torch.float64), 1e-5
    (gradient,) = torch.autograd.grad(members(x, tau).sum(), x)
    with torch.no_grad():
        slope = (members(x + step * direction, tau) - members(x - step * direction, tau)).sum() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_training_moves_the_head_and_never_the_extractor(
    extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor
) -> None:
    discriminator = Discriminator(extractor, heads[0]).train()
    assert discriminator.head.training
    assert not any(module.training for module in discriminator.extractor.modules())
    discriminator.logits(x, tau).sum().backward()
    assert all(parameter.grad is None for parameter in discriminator.extractor.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.head.parameters())


def test_logits_from_features_at_hand(extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor) -> None:
    discriminator = Discriminator(extractor, heads[0]).eval()
    features = extractor.features(x, tau)
    assert torch.equal(discriminator.feature_logits(features, tau), discriminator.logits(x, tau))


def test_conditional_members(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    head = shuffled(build_head(extractor.feature_shape, 48, 1, 24, condition=True))
    members = MemberLogits(extractor, [head])
    labels = torch.arange(6)
    assert not torch.allclose(members(x, tau, labels), members(x, tau, labels + 1), atol=1e-3)


def test_bfloat16_logits_are_finite_and_close(
    extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor
) -> None:
    members = MemberLogits(extractor, heads)
    full = members(x, tau)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        fast = members(x, tau)
    (gradient,) = torch.autograd.grad(fast.sum(), x)
    assert fast.dtype == torch.float32
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    assert (fast - full).square().mean().sqrt() < 0.05 * full.square().mean().sqrt()


@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
def test_members_together_are_the_members_one_by_one(mode, monkeypatch):
    torch.manual_seed(0)
    compute = Compute(torch.device("cpu"), mode)
    extractor = compute.place(shuffled(build_extractor(8, 1, 3, 8, [1, 2], 1, [4], 8)))
    sizes = (8, 8, 16)  # the last one is of another make
    heads = [compute.place(shuffled(build_head(extractor.feature_shape, size, 1, 8))) for size in sizes]
    members = MemberLogits(extractor, heads)
    x, tau = torch.randn(2, 1, 8, 8, requires_grad=True), torch.tensor([0.2, 0.7])

    def found():
        with compute.autocast():
            logits = members(x, tau).float()
        return logits.detach(), torch.autograd.grad(logits.sum(), x)[0]

    monkeypatch.setattr(MemberLogits, "_together", lambda self, features: False)
    apart = found()
    monkeypatch.setattr(MemberLogits, "_together", lambda self, features: True)
    tolerance = {"float32": 1e-5, "bfloat16": 0.05}[mode]
    for together, alone in zip(found(), apart, strict=True):
        torch.testing.assert_close(together, alone, atol=tolerance, rtol=tolerance)
    assert [places for places, _ in members._stacked()] == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("device", "mode", "together"),
    [("meta", "float32", False), ("meta", "bfloat16", True), ("cpu", "bfloat16", False)],  # meta: whatever is no CPU
)
def test_only_bfloat16_members_are_evaluated_together_and_not_on_a_cpu(device, mode, together):
    compute = Compute(torch.device(device), mode)
    extractor = compute.place(build_extractor(8, 1, 3, 8, [1, 2], 1, [4], 8))
    members = MemberLogits(extractor, [compute.place(build_head(extractor.feature_shape, 8, 1, 8)) for _ in range(2)])
    features = torch.zeros(2, *extractor.feature_shape, device=device, dtype=getattr(torch, mode))
    assert members._together(features) == together
