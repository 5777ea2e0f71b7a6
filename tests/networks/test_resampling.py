"""Doubling and halving by a matrix product give what torch's own pooling and interpolation give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from discriminator_guidance.networks.resampling import WIDEST, double, halve

WAYS = {
    "halve": (halve, lambda x: F.avg_pool2d(x, 2)),
    "double": (double, lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")),
}


# All numbers are whole: their sums are exact in any order.
def value_and_gradient(function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = function(x)
    weights = torch.randint(-8, 8, y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y, torch.autograd.grad(y, x, weights)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (2, 6), (32, 32), (2, 2 * WIDEST)], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients_are_those_of_torch(way, size, dtype):
    ours, theirs = WAYS[way]
    x = torch.randint(-8, 8, (3, 5, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    for found, expected in zip(value_and_gradient(ours, x), value_and_gradient(theirs, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_small_contiguous_pictures_are_multiplied_by_a_matrix(way):
    with FlopCounterMode(display=False) as counted:
        WAYS[way][0](torch.ones(2, 3, 8, 8))
    assert counted.get_total_flops() > 0  # torch counts those of products, none of pooling


@pytest.mark.parametrize("way", WAYS)
def test_channels_last_stay_so(way):
    ours, theirs = WAYS[way]
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    assert torch.equal(ours(x), theirs(x))
    assert ours(x).is_contiguous(memory_format=torch.channels_last)


def test_an_odd_row_is_left_out_as_by_torch():
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(halve(x), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("way", WAYS)
def test_autocast_rounds_nothing(way):
    ours, theirs = WAYS[way]
    x = torch.randint(-2000, 2000, (2, 3, 4, 4)) / 8  # too many digits for bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        resampled = ours(x)
    assert resampled.dtype == torch.float32
    assert torch.equal(resampled, theirs(x))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_after_inference_of_the_same_size(way):
    ours, theirs = WAYS[way]
    with torch.inference_mode():
        ours(torch.randn(1, 1, 10, 14))  # sizes that no other test has: the matrix is made here
    x = torch.randint(-8, 8, (1, 1, 10, 14)).float()
    assert torch.equal(value_and_gradient(ours, x)[1], value_and_gradient(theirs, x)[1])


@pytest.mark.parametrize("way", WAYS)
def test_many_members_at_once(way):
    ours, theirs = WAYS[way]
    x = torch.randint(-8, 8, (3, 2, 4, 6, 6)).float()
    assert torch.equal(torch.vmap(ours)(x), torch.stack([theirs(each) for each in x]))
