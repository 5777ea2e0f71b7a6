"""Layers of the ADM encoder, under their original parameter names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.blocks import attend
from discriminator_guidance.networks.cpu import halve


def normalization(channels: int) -> nn.GroupNorm:
    """Group normalisation with gcd(32, channels) groups (Wu & He 2018, Eq. 7).

    *Deviation:* official code always has 32 groups, which only multiples of 32 channels allow.
    """
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with its parameters set to 0, so that its residual block starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def head_count(channels: int, num_head_channels: int) -> int:
    """The number of attention heads of so many channels each."""
    if channels % num_head_channels:
        raise ConfigError(f"num_head_channels that divides {channels}", str(num_head_channels), "choose a divisor")
    return channels // num_head_channels


class ResBlock(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the time embedding; `down` averages first.

    (N, channels, H, W), (N, emb_channels) -> (N, out_channels, H, W) or half the size.
    Dhariwal & Nichol 2021, Sections 3 and 3.1 (adaptive group normalisation).
    """

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
        norm, activation, convolution = self.in_layers
        h = activation(norm(x))
        if self.down:
            x, h = halve(x), halve(h)
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(convolution(h)) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        total: Tensor = self.skip_connection(x) + h
        return total


class AttentionBlock(nn.Module):
    """Residual multi-head self-attention over the positions of a feature map (Dhariwal & Nichol 2021, Section 3)."""

    def __init__(self, channels: int, num_head_channels: int) -> None:
        super().__init__()
        self.num_heads = head_count(channels, num_head_channels)
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(2)
        # Checkpoints hold query, key and value of one head next to each other.
        q, k, v = self.qkv(self.norm(positions)).unflatten(1, (self.num_heads, 3, -1)).unbind(2)
        attended: Tensor = self.proj_out(attend(q, k, v).flatten(1, 2))
        return (positions + attended).view_as(x)


class AttentionPool2d(nn.Module):
    """Attention of the mean feature over all positions of a size x size map, projected to (N, output_dim) logits.

    Radford et al. 2021 (CLIP), Section 2.4; Dhariwal & Nichol 2021, Section 4.
    """

    def __init__(self, size: int, channels: int, num_head_channels: int, output_dim: int) -> None:
        super().__init__()
        self.num_heads = head_count(channels, num_head_channels)
        self.positional_embedding = nn.Parameter(torch.randn(channels, size**2 + 1) / math.sqrt(channels))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, output_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(2)
        tokens = torch.cat([positions.mean(dim=2, keepdim=True), positions], dim=2)
        tokens = tokens + self.positional_embedding
        # Checkpoints hold the queries of all heads first, then all keys, then all values.
        q, k, v = self.qkv_proj(tokens).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        logits: Tensor = self.c_proj(attend(q[..., :1], k, v).flatten(1, 2)).squeeze(2)
        return logits
