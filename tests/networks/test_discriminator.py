"""Discriminators: what is frozen, what gradients reach, and members that share one feature pass."""

from __future__ import annotations

import torch
from torch import Tensor

from discriminator_guidance.networks.adm import EncoderUNet, MemberLogits


def test_member_gradients_reach_the_image_alone(
    extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor
) -> None:
    members = MemberLogits(extractor, heads)
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
