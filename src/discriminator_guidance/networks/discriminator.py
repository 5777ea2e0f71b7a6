"""Discriminators: heads on the frozen features of a classifier of noisy pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

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

    Heads of the same make are evaluated one after the other on a CPU; elsewhere, in bfloat16, together, their
    parameters stacked.

    Args:
        extractor: gives the feature map.
        heads: of the members, in order.
    """

    _stacks: list[tuple[list[int], dict[str, Tensor]]] | None = None

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
        # The extractor may have channels last. vmap knows no such layout, and narrow heads are slower with it.
        features = self.extractor.features(x_vp, tau).contiguous()
        if not self._together(features):
            return torch.stack([head(features, tau, labels).squeeze(1) for head in self.heads])
        logits: dict[int, Tensor] = {}
        for places, parameters in self._stacked():
            head = self.heads[places[0]]
            if len(places) == 1:
                logits[places[0]] = head(features, tau, labels).squeeze(1)
                continue

            def one(
                told: dict[str, Tensor], head: nn.Module = head, given: tuple[Any, ...] = (features, tau, labels)
            ) -> Tensor:
                logit: Tensor = functional_call(head, told, given).squeeze(1)
                return logit

            logits |= zip(places, vmap(one)(parameters).unbind(), strict=True)
        return torch.stack([logits[place] for place in range(len(self.heads))])

    def _together(self, features: Tensor) -> bool:
        kernel = next(layer.weight.dtype for layer in self.heads.modules() if isinstance(layer, nn.Conv2d))
        # vmap knows no autocast. On a CPU convolutions in groups of members take longer: 1.16 to 1.28 times as long for
        # six heads of 48 to 128 channels in bfloat16.
        return features.device.type != "cpu" and features.dtype == kernel == torch.bfloat16

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._stacks = None  # device or format of the parameters changes
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _stacked(self) -> list[tuple[list[int], dict[str, Tensor]]]:
        """Places of the heads of one make, and their parameters, stacked."""
        if self._stacks is None:
            alike: dict[str, list[int]] = {}
            for place, head in enumerate(self.heads):
                alike.setdefault(repr(cast(EncoderUNet, head).arguments), []).append(place)
            self._stacks = [(places, _stacked([self.heads[place] for place in places])) for places in alike.values()]
        return self._stacks


def _stacked(heads: list[nn.Module]) -> dict[str, Tensor]:
    if len(heads) == 1:
        return {}
    parameters, _ = stack_module_state(heads)
    return {name: parameter.detach().contiguous() for name, parameter in parameters.items()}
