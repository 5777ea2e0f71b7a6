"""Attention over many positions is attention written out, in every format and layout."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.networks import attention
from discriminator_guidance.networks.attention import attend


def exact(parts):
    """Outcome and gradients by the definition, float64."""
    q, k, v = (part.detach().double().requires_grad_(True) for part in parts)
    weight = torch.einsum("nhcq,nhck->nhqk", q, k).div(q.shape[2] ** 0.5).softmax(dim=3)
    attended = torch.einsum("nhqk,nhck->nhcq", weight, v)
    return [attended, *torch.autograd.grad(attended.sin().sum(), (q, k, v))]


@pytest.mark.parametrize("many", [1, 1000], ids=["in tiles", "written out"])
@pytest.mark.parametrize("tile", [1, 3000, 2**21], ids=["head by head", "several heads", "all heads"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.04)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_attention_and_its_gradients(dtype, tolerance, many, tile, channels_last, monkeypatch):
    monkeypatch.setattr(attention, "MANY", many)
    monkeypatch.setattr(attention, "TILE", tile)
    parts = [torch.randn(2, 3, 5, 36, dtype=dtype) for _ in range(3)]
    if channels_last:
        parts = [part.transpose(2, 3).contiguous().transpose(2, 3) for part in parts]
    parts = [part.requires_grad_(True) for part in parts]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        attended = attend(*parts)
    found = [attended, *torch.autograd.grad(attended.double().sin().sum(), parts)]
    for ours, expected in zip(found, exact(parts), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_numbers_of_positions_that_are_asked_than_that_ask(dtype, monkeypatch):
    monkeypatch.setattr(attention, "MANY", 1)
    parts = [torch.randn(2, 3, 5, positions, dtype=dtype, requires_grad=True) for positions in (17, 40, 40)]
    torch.testing.assert_close(attend(*parts).double(), exact(parts)[0], atol=1e-5, rtol=1e-5)


def test_in_tiles_the_weights_keep_the_format_of_the_features(monkeypatch):
    """Autocast would make them float32, twice the memory and the time."""
    monkeypatch.setattr(attention, "MANY", 1)
    seen = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, dim: seen.append(softmax(self, dim)) or seen[-1])
    part = torch.randn(1, 2, 8, 32, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attend(part, part, part)
    assert {weights.dtype for weights in seen} == {torch.bfloat16}
