"""What replaces torch's operations on a CPU gives what these give."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from discriminator_guidance.networks.layers import MANY, WIDEST, attend, double, halve

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
@pytest.mark.parametrize("size", [(2, 6), (2, 2 * WIDEST)], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients_are_those_of_torch(way, size, dtype):
    ours, theirs = WAYS[way]
    x = torch.randint(-8, 8, (3, 5, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    for ours_of, expected in zip(value_and_gradient(ours, x), value_and_gradient(theirs, x), strict=True):
        assert torch.equal(ours_of, expected)


@pytest.mark.parametrize("way", WAYS)
def test_autocast_rounds_nothing(way):
    ours, theirs = WAYS[way]
    x = torch.randint(-2000, 2000, (2, 3, 4, 4)) / 8  # too many digits for bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        resampled = ours(x)
    assert resampled.dtype == torch.float32
    assert torch.equal(resampled, theirs(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("asking", [1, MANY, 16 * MANY])
def test_attention_is_that_of_torch(asking, dtype, tolerance):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 8, max(asking, 16)).to(dtype).requires_grad_() for _ in range(3))
    asked = query[..., :asking]
    theirs = F.scaled_dot_product_attention(*(x.transpose(2, 3) for x in (asked, key, value))).transpose(2, 3)
    ours = attend(asked, key, value)
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=tolerance)
    for tensor in (query, key, value):
        slopes = [torch.autograd.grad(y.sum(), tensor, retain_graph=True)[0].float() for y in (ours, theirs)]
        torch.testing.assert_close(*slopes, atol=tolerance, rtol=tolerance)
