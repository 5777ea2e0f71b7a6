"""Attention by the fused kernel is attention written out."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.networks import blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_attention_and_its_gradients(dtype, monkeypatch):
    parts = [torch.randn(2, 3, 5, 17, dtype=dtype, requires_grad=True) for _ in range(3)]
    found = []
    for first in (1, 1000):
        monkeypatch.setattr(blocks, "FUSED_FROM", first)
        attended = blocks.attend(*parts)
        found.append([attended, *torch.autograd.grad(attended.square().sum(), parts)])
    for fused, written_out in zip(*found, strict=True):
        torch.testing.assert_close(fused, written_out)
