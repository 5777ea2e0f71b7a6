"""Group normalisation is torch's, whichever kernel computes it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from discriminator_guidance.networks.normalization import CHANNELS, POSITIONS, GroupNorm

LAST = torch.channels_last
# (groups, channels, height, width): where torch's own forward kernel is fast, by its positions or by its channels in a
# group, and where it is not.
SHAPES = [(2, 8, 32, POSITIONS // 32), (2, 2 * CHANNELS, 4, 6), (4, 8, 4, 6)]


def layer(groups, channels):
    made = GroupNorm(groups, channels, eps=1e-3)
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_with_channels_last_and_its_gradients(shape):
    groups, *size = shape
    made = layer(groups, size[0])
    x = (1.5 + 2 * torch.randn(3, *size)).to(torch.bfloat16).to(memory_format=LAST).requires_grad_(True)
    y = made(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=LAST)
    towards = torch.randn(3, *size).to(torch.bfloat16).double()
    found = [y, *torch.autograd.grad((y.double() * towards).sum(), (x, made.weight, made.bias))]

    exact = nn.GroupNorm(groups, size[0], eps=1e-3).double()
    exact.load_state_dict(made.state_dict())
    given = x.detach().double().requires_grad_(True)
    expected = exact(given)
    wanted = [
        expected,
        *torch.autograd.grad((expected * towards).sum(), (given, exact.weight, exact.bias)),
    ]
    for ours, right in zip(found, wanted, strict=True):
        error = (ours.double() - right).std() / right.std()
        assert error < 0.006, error  # a rounding to bfloat16 is 0.0017, three of them in a row are in the gradient


def test_the_gradient_arrives_in_any_layout():
    made = layer(2, 8)
    x = torch.randn(2, 8, 4, 4).to(torch.bfloat16).to(memory_format=LAST).requires_grad_(True)
    towards = torch.randn(2, 8, 4, 4).to(torch.bfloat16)
    found = [torch.autograd.grad(made(x), x, part)[0] for part in (towards, towards.to(memory_format=LAST))]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 8, 4, 6), (3, 8, 24)])
def test_elsewhere_it_is_torchs_to_the_byte(dtype, shape):
    made, theirs = layer(2, 8), nn.GroupNorm(2, 8, eps=1e-3)
    theirs.load_state_dict(made.state_dict())
    x = torch.randn(shape).to(dtype)
    assert torch.equal(made(x), theirs(x))
    if dtype == torch.float32 and len(shape) == 4:
        assert torch.equal(made(x.to(memory_format=LAST)), theirs(x.to(memory_format=LAST)))
