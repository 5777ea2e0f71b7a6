"""Layers that the networks share: embeddings of time, attention, resampling, and the blocks of the score networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discriminator_guidance.networks import cpu


def sinusoidal_embedding(time: Tensor, channels: int, endpoint: bool) -> Tensor:
    """Cosines, then sines, of (N,) times at frequencies falling geometrically from 1 to 1 / 10,000: (N, channels).

    `endpoint`: the last frequency is exactly 1 / 10,000 (DDPM++), or stops one short of it (ADM).
    Vaswani et al. 2017, Section 3.5; Ho et al. 2020, Appendix B.
    """
    half = channels // 2
    fraction = torch.arange(half, device=time.device, dtype=time.dtype) / (half - 1 if endpoint else half)
    angle = time[:, None] * torch.exp(-math.log(10_000) * fraction)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class PositionalEmbedding(nn.Module):
    """Embedding of (N,) noise conditioning at fixed frequencies, cosines before sines (DDPM++)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, noise: Tensor) -> Tensor:
        return sinusoidal_embedding(noise, self.channels, endpoint=True)


class FourierEmbedding(nn.Module):
    """Embedding of (N,) noise conditioning at random, stored frequencies (NCSN++; Tancik et al. 2020)."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, noise: Tensor) -> Tensor:
        angle = noise[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def broadcast_batch(level: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """A 0-dim or (N,) time or noise level as (N,)."""
    return level.to(dtype).reshape(-1).expand(batch)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention on (N, heads, channels, positions) (Vaswani et al. 2017, Eq. 1)."""
    if query.device.type == "cpu":
        return cpu.attend(query, key, value)
    q, k, v = (part.transpose(2, 3).contiguous() for part in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)


def separable_filter(taps: Sequence[int]) -> Tensor:
    """The (1, 1, k, k) low-pass filter of k symmetric taps, k even: their outer product, summing to 1."""
    if len(taps) % 2 or tuple(taps) != tuple(reversed(taps)):
        raise ValueError(f"resample_filter must have an even number of symmetric taps; it is {tuple(taps)}")
    row = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(row, row) / row.sum().square())[None, None]


def resample(x: Tensor, low_pass: Tensor, up: bool, padding: int) -> Tensor:
    """Filter every channel and double or halve the image, exactly where padding is (k - 1) // 2.

    Song et al. 2021, Appendix H (finite impulse response); Karras et al. 2022, Table 1.
    """
    if low_pass.shape[-1] == 2:  # two symmetric taps average: far faster without a convolution
        return cpu.double(x) if up else cpu.halve(x)
    channels = x.shape[1]
    kernel = low_pass.to(x.dtype).expand(channels, 1, -1, -1)
    if up:
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)
    return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)


class Linear(nn.Linear):
    """Affine map with Glorot-uniform weights and zero bias at its start (Glorot & Bengio 2010, Eq. 16)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        nn.init.xavier_uniform_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)


class Conv2d(nn.Conv2d):
    """Convolution after doubling, after halving, or (`fused`) before halving the image.

    `gain` scales the Glorot-uniform initial weights: near 0 where a block starts as the identity.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        gain: float = 1.0,
        taps: Sequence[int] = (1, 1),
        up: bool = False,
        down: bool = False,
        fused: bool = False,
    ) -> None:
        margin = (len(taps) - 1) // 2
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2 + (margin if fused else 0))
        self.up, self.down, self.fused, self.margin = up, down, fused, margin
        nn.init.xavier_uniform_(self.weight, gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if up or down:
            self.register_buffer("resample_filter", separable_filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return resample(super().forward(x), self.resample_filter, self.up, padding=0)
        if self.up or self.down:
            x = resample(x, self.resample_filter, self.up, self.margin)
        return super().forward(x)


class UNetBlock(nn.Module):
    """Residual block with time embedding and optional one-head self-attention; every sum keeps its variance.

    (N, in_channels, H, W), (N, emb_channels) -> (N, out_channels, H, W), at twice or half the size with `up` or `down`.
    Song et al. 2021, Appendix H (BigGAN-type blocks); Karras et al. 2022, Appendix F.2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        dropout: float,
        taps: Sequence[int],
        up: bool = False,
        down: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels, self.dropout, self.attention = out_channels, dropout, attention
        self.norm0 = group_norm(in_channels)
        self.conv0 = Conv2d(in_channels, out_channels, 3, taps=taps, up=up, down=down)
        self.affine = Linear(emb_channels, out_channels)
        self.norm1 = group_norm(out_channels)
        self.conv1 = Conv2d(out_channels, out_channels, 3, gain=1e-5)
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels or up or down:
            self.skip = Conv2d(in_channels, out_channels, 1, taps=taps, up=up, down=down)
        if attention:
            self.norm2 = group_norm(out_channels)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, gain=math.sqrt(0.2))
            self.proj = Conv2d(out_channels, out_channels, 1, gain=1e-5)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = h + self.affine(embedding)[:, :, None, None]
        h = F.dropout(F.silu(self.norm1(h)), self.dropout, self.training)
        x = (self.skip(x) + self.conv1(h)) * math.sqrt(0.5)
        return (x + self._attended(x)) * math.sqrt(0.5) if self.attention else x

    def _attended(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Checkpoints interleave query, key and value channel by channel.
        q, k, v = self.qkv(self.norm2(x)).reshape(batch, 1, channels, 3, height * width).unbind(3)
        attended: Tensor = self.proj(attend(q, k, v).reshape(x.shape))
        return attended


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation of the score networks: at most 32 groups of at least 4 channels (Wu & He 2018, Eq. 7).

    *Deviation:* where that number does not divide the channels, the next smaller one that does.
    """
    groups = next(count for count in range(min(32, channels // 4), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)
