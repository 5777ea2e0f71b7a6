"""Layers of the ADM encoder, under their original parameter names."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.attention import attend, attend_rows
from discriminator_guidance.networks.normalization import GroupNorm
from discriminator_guidance.networks.resampling import halve

Layer = TypeVar("Layer", bound=nn.Module)


def normalization(channels: int) -> GroupNorm:
    """Group normalisation with gcd(32, channels) groups.

    Args:
        channels: of the feature map.

    Returns:
        The layer, scale 1 and shift 0 at its start.

    Source: Wu & He 2018, Eq. 7.

    Deviation: official code always has 32 groups, which only multiples of 32 channels allow.
    """
    return GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: Layer) -> Layer:
    """Set a layer's parameters to 0, so that its residual block starts as the identity.

    Args:
        layer: changed in place.

    Returns:
        The same layer.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def head_count(channels: int, num_head_channels: int) -> int:
    """The number of attention heads.

    Args:
        channels: of the feature map.
        num_head_channels: channels a head, positive.

    Returns:
        channels / num_head_channels.

    Raises:
        ConfigError: that is not a whole number.
    """
    if channels % num_head_channels:
        raise ConfigError(
            f"num_head_channels that divides {channels}",
            str(num_head_channels),
            "choose a divisor of the channels",
        )
    return channels // num_head_channels


class ResBlock(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the time embedding.

    Args:
        channels: input channels.
        emb_channels: width of the time embedding.
        dropout: probability before the second convolution.
        out_channels: output channels.
        down: halve the picture by averaging, before the first convolution.

    Source: Dhariwal & Nichol 2021, Section 3 and 3.1 (adaptive group normalisation).
    """

    halve = staticmethod(halve)

    def __init__(self, channels: int, emb_channels: int, dropout: float, out_channels: int, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.out_layers = nn.Sequential(
            normalization(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if channels != out_channels:
            self.skip_connection = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The block's output.

        Args:
            x: (N, channels, H, W).
            embedding: (N, emb_channels) of time and class.

        Returns:
            (N, out_channels, H, W), with `down` (N, out_channels, H/2, W/2).
        """
        norm, activation, convolution = self.in_layers
        h = activation(norm(x))
        if self.down:
            x, h = self.halve(x), self.halve(h)
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(convolution(h)) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        total: Tensor = self.skip_connection(x) + h
        return total


class AttentionBlock(nn.Module):
    """Residual multi-head self-attention over the positions of a feature map.

    Args:
        channels: input and output channels.
        num_head_channels: channels a head.

    Raises:
        ConfigError: `num_head_channels` does not divide the channels.

    Source: Dhariwal & Nichol 2021, Section 3.
    """

    def __init__(self, channels: int, num_head_channels: int) -> None:
        super().__init__()
        self.num_heads = head_count(channels, num_head_channels)
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The feature map plus what its positions attend to.

        Args:
            x: (N, channels, H, W).

        Returns:
            (N, channels, H, W).
        """
        if not x.is_contiguous():
            return self._channels_last(x)
        positions = x.flatten(2)
        # Checkpoints hold query, key and value of one head next to each other.
        q, k, v = self.qkv(self.norm(positions)).unflatten(1, (self.num_heads, 3, -1)).unbind(2)
        attended: Tensor = self.proj_out(attend(q, k, v).flatten(1, 2))
        return (positions + attended).view_as(x)

    def _channels_last(self, x: Tensor) -> Tensor:
        # The same without a copy: with channels last every position is a row. One long list of rows, because `vmap`
        # would repeat the weights for each picture of a batch of lists.
        batch, channels, height, width = x.shape
        rows = self.norm(x).permute(0, 2, 3, 1).reshape(-1, channels)
        qkv = F.linear(rows, self.qkv.weight.squeeze(2), self.qkv.bias)
        q, k, v = qkv.view(batch, -1, self.num_heads, 3, channels // self.num_heads).transpose(1, 2).unbind(3)
        attended = attend_rows(q, k, v).transpose(1, 2).reshape(-1, channels)
        projected = F.linear(attended, self.proj_out.weight.squeeze(2), self.proj_out.bias)
        total: Tensor = x + projected.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return total


class AttentionPool2d(nn.Module):
    """Attention of the mean feature over all positions, projected to logits.

    Args:
        size: height and width of the feature map.
        channels: of the feature map.
        num_head_channels: channels a head.
        output_dim: number of logits.

    Raises:
        ConfigError: `num_head_channels` does not divide the channels.

    Source: Radford et al. 2021 (CLIP), Section 2.4; Dhariwal & Nichol 2021, Section 4.
    """

    def __init__(self, size: int, channels: int, num_head_channels: int, output_dim: int) -> None:
        super().__init__()
        self.num_heads = head_count(channels, num_head_channels)
        self.positional_embedding = nn.Parameter(torch.randn(channels, size**2 + 1) / math.sqrt(channels))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, output_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a feature map.

        Args:
            x: (N, channels, size, size).

        Returns:
            (N, output_dim).
        """
        positions = x.flatten(2)
        tokens = torch.cat([positions.mean(dim=2, keepdim=True), positions], dim=2)
        tokens = tokens + self.positional_embedding
        # Checkpoints hold the queries of all heads first, then all keys, then all values.
        q, k, v = self.qkv_proj(tokens).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        logits: Tensor = self.c_proj(attend(q[..., :1], k, v).flatten(1, 2)).squeeze(2)
        return logits
