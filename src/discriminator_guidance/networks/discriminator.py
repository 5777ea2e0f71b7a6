"""Discriminators: heads on the frozen features of a classifier of noisy images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from discriminator_guidance.networks.adm import EncoderUNet


class MemberLogits(nn.Module):
    """Several heads on one pass of their common extractor, everything frozen: what guidance needs.

    Kim et al. 2023, Section 4.1 (a shallow U-Net encoder on a frozen noisy-image classifier).
    """

    def __init__(self, extractor: EncoderUNet, heads: Sequence[EncoderUNet]) -> None:
        super().__init__()
        self.extractor, self.heads = extractor, nn.ModuleList(heads)
        self.requires_grad_(False).eval()

    @property
    def conditional(self) -> list[bool]:
        """Which of the heads are given classes."""
        return [head.label_emb is not None for head in self.heads]

    def forward(self, x_vp: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """The members' logits (members, N) of d(x_vp, tau), differentiable in x_vp.

        x_vp: (N, C, H, W), mean(tau) times the unscaled noisy images. tau: 0-dim or (N,) VP times. labels: (N,) or
        (N, classes) one-hot, for conditional heads; the extractor is not given them.
        """
        features = self.extractor.features(x_vp, tau)
        return torch.stack([head(features, tau, labels).squeeze(1) for head in self.heads])
