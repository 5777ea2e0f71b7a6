"""The convolution that multiplies less is the convolution."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from discriminator_guidance.networks import blocks
from discriminator_guidance.networks.blocks import Conv2d
from discriminator_guidance.networks.winograd import convolve, transformed


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("size", [(2, 2), (2, 5), (4, 1), (8, 8)])
def test_it_gives_what_torch_gives(size, with_bias, layout):
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64) if with_bias else None
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=layout)
    before = x.clone()
    found = convolve(x, transformed(weight), bias)
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), atol=1e-12, rtol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


def test_in_float32_it_errs_as_little_as_torch():
    weight, x = torch.randn(64, 64, 3, 3), torch.randn(2, 64, 16, 16)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    ours, torchs = convolve(x, transformed(weight), None), F.conv2d(x, weight, padding=1)
    assert (ours - exact).std() < 4 * (torchs - exact).std()


def test_in_bfloat16_it_errs_little_more_than_torch():
    weight, x = torch.randn(64, 64, 3, 3), torch.randn(2, 64, 16, 16).to(torch.bfloat16)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    ours = convolve(x, [kernel.to(torch.bfloat16) for kernel in transformed(weight)], None)
    torchs = F.conv2d(x, weight.to(torch.bfloat16), padding=1)
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).std() < 2 * (torchs - exact).std()


@pytest.mark.parametrize("options", [{}, {"up": True}, {"down": True}, {"up": True, "taps": (1, 3, 3, 1)}])
def test_a_layer_that_was_told_so_multiplies_less(options, monkeypatch):
    calls = []
    monkeypatch.setattr(blocks, "convolve", lambda *told: calls.append(told) or convolve(*told))
    layer = Conv2d(4, 6, 3, **options).double().requires_grad_(False)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    expected = layer(x)
    assert not calls
    layer.multiply_less(torch.float64)
    torch.testing.assert_close(layer(x), expected)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("kernel", "options", "height", "gradient"),
    [
        (1, {}, 8, False),
        (3, {"taps": (1, 3, 3, 1), "down": True, "fused": True}, 8, False),
        (3, {}, 7, False),
        (3, {}, 8, True),
    ],
    ids=["one pixel", "padded for the filter", "odd height", "gradients"],
)
def test_what_it_is_not_for_is_left_as_it_is(kernel, options, height, gradient, monkeypatch):
    monkeypatch.setattr(blocks, "convolve", lambda *told: pytest.fail("it was used"))
    layer = Conv2d(4, 6, kernel, **options).requires_grad_(False)
    x = torch.randn(2, 4, height, 8, requires_grad=gradient)
    expected = layer(x)
    layer.multiply_less(torch.float32)
    assert torch.equal(layer(x), expected)
    if gradient:
        assert torch.autograd.grad(layer(x).sum(), x)[0].abs().sum() > 0
