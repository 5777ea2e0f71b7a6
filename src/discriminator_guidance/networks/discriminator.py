"""Discriminators: heads on the frozen features of a classifier of noisy pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from discriminator_guidance.networks.adm import EncoderUNet


class Discriminator(nn.Module):
    """A trainable head on a frozen extractor; files hold `head.state_dict()` alone.

    Args:
        extractor: gives the feature map; frozen, in evaluation mode for good.
        head: takes the feature map, gives one logit.

    Source: Kim et al. 2023, Section 4.1 (a shallow U-Net encoder on a frozen noisy-image classifier).
    """

    def __init__(self, extractor: EncoderUNet, head: EncoderUNet) -> None:
        super().__init__()
        self.extractor, self.head = extractor.requires_grad_(False).eval(), head

    def train(self, mode: bool = True) -> Self:
        """Put the head in training or evaluation mode; the extractor stays in evaluation mode."""
        super().train(mode)
        self.extractor.eval()
        return self

    def logits(self, x_vp: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """The logit of d(x_vp, tau), the log density ratio of real and fake once it is trained.

        Args:
            x_vp: (N, C, H, W) noisy pictures in VP units, mean(tau) times the unscaled ones.
            tau: 0-dim or (N,) VP times in [0, 1].
            labels: (N,) integers or (N, classes) one-hot, for a conditional head.

        Returns:
            (N,), differentiable in `x_vp` and in the head's parameters.
        """
        return self.feature_logits(self.extractor.features(x_vp, tau), tau, labels)

    def feature_logits(self, features: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """The same from feature maps that are at hand already.

        Args:
            features: (N, *extractor.feature_shape), of the extractor at the same `tau`.
            tau: 0-dim or (N,) VP times in [0, 1].
            labels: (N,) integers or (N, classes) one-hot, for a conditional head.

        Returns:
            (N,), differentiable in `features` and in the head's parameters.
        """
        logit: Tensor = self.head(features, tau, labels)
        return logit.squeeze(1)


class MemberLogits(nn.Module):
    """Several heads on one pass of their common extractor, everything frozen: what guidance needs.

    Args:
        extractor: gives the feature map.
        heads: of the members, in order.
    """

    def __init__(self, extractor: EncoderUNet, heads: Sequence[EncoderUNet]) -> None:
        super().__init__()
        self.extractor, self.heads = extractor, nn.ModuleList(heads)
        self.requires_grad_(False).eval()

    @property
    def conditional(self) -> list[bool]:
        """Which of the heads are given classes."""
        return [head.label_emb is not None for head in self.heads]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the mode asked for."""
        return super().train(False)

    def forward(self, x_vp: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """The members' logits.

        Args:
            x_vp: (N, C, H, W) noisy pictures in VP units.
            tau: 0-dim or (N,) VP times in [0, 1].
            labels: (N,) integers or (N, classes) one-hot, for conditional heads; not for the extractor.

        Returns:
            (members, N), differentiable in `x_vp` alone.
        """
        features = self.extractor.features(x_vp, tau)
        return torch.stack([head(features, tau, labels).squeeze(1) for head in self.heads])
