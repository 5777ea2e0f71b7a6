"""The time embeddings and the layers of the score networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discriminator_guidance.networks.attention import attend
from discriminator_guidance.networks.normalization import GroupNorm
from discriminator_guidance.networks.resampling import resample, separable_filter
from discriminator_guidance.networks.winograd import convolve, transformed


def sinusoidal_embedding(time: Tensor, channels: int, endpoint: bool) -> Tensor:
    """Cosines, then sines, of a time at frequencies falling geometrically from 1 to 1 / 10,000.

    Args:
        time: (N,) floating point.
        channels: width of the embedding, even.
        endpoint: whether the last frequency is exactly 1 / 10,000 (DDPM++) or stops one short of it (ADM).

    Returns:
        (N, channels), in the dtype of `time`.

    Source: Vaswani et al. 2017, Section 3.5; Ho et al. 2020, Appendix B.
    """
    half = channels // 2
    fraction = torch.arange(half, device=time.device, dtype=time.dtype) / (half - 1 if endpoint else half)
    angle = time[:, None] * torch.exp(-math.log(10_000) * fraction)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class PositionalEmbedding(nn.Module):
    """Embedding of the noise level at fixed frequencies (DDPM++).

    Args:
        channels: width of the embedding, even.

    Source: Ho et al. 2020, Appendix B.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, noise: Tensor) -> Tensor:
        """The embedding.

        Args:
            noise: (N,) noise conditioning, floating point.

        Returns:
            (N, channels), cosines before sines.
        """
        return sinusoidal_embedding(noise, self.channels, endpoint=True)


class FourierEmbedding(nn.Module):
    """Embedding of the noise level at random, stored frequencies (NCSN++).

    Args:
        channels: width of the embedding, even.
        scale: standard deviation of the frequencies.

    Source: Tancik et al. 2020 (Gaussian features).
    """

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, noise: Tensor) -> Tensor:
        """The embedding.

        Args:
            noise: (N,) noise conditioning, floating point.

        Returns:
            (N, channels), cosines before sines.
        """
        angle = noise[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def broadcast_batch(level: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """A time or noise level, one for each picture.

    Args:
        level: 0-dim or (N,).
        batch: N.
        dtype: the networks'.

    Returns:
        (N,) in that dtype.
    """
    return level.to(dtype).reshape(-1).expand(batch)


class Linear(nn.Linear):
    """Affine map that starts with Glorot-uniform weights and zero bias.

    Args:
        in_features: input width.
        out_features: output width.
        bias: whether it adds a learnt constant.

    Source: Glorot & Bengio 2010, Eq. 16.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        nn.init.xavier_uniform_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)


class Conv2d(nn.Conv2d):
    """Convolution, after doubling or before or after halving the picture.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel: odd width of the learnt kernel.
        gain: factor on the Glorot-uniform initial weights; near 0 where a block shall start as the identity.
        taps: of the resampling filter.
        up: double the picture first.
        down: halve the picture, first unless `fused`.
        fused: convolve on a picture padded for both, then halve.

    Raises:
        ValueError: it resamples, with an odd number of taps or taps that are not symmetric.
    """

    resample_filter: Tensor
    _kernels: list[Tensor] | None = None

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

    def multiply_less(self, dtype: torch.dtype) -> None:
        """Prepare for calls without gradients on a CPU: a kernel of 3 x 3 takes two thirds of the multiplications.

        The weights must not change any more. Other kernels, calls with gradients and pictures of an odd height are
        left as they are.

        Args:
            dtype: of the pictures that will come.
        """
        if self.kernel_size == (3, 3) and self.padding == (1, 1):
            self._kernels = [kernel.to(dtype) for kernel in transformed(self.weight.detach())]

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, at the new size.

        Args:
            x: (N, in_channels, H, W).

        Returns:
            (N, out_channels, H, W); with `up` (N, out_channels, 2H, 2W), with `down` (N, out_channels, H/2, W/2).
        """
        if self.fused:
            return resample(super().forward(x), self.resample_filter, self.up, padding=0)
        if self.up or self.down:
            x = resample(x, self.resample_filter, self.up, self.margin)
        if self._kernels is None or x.requires_grad or x.shape[2] % 2:
            return super().forward(x)
        return convolve(x, self._kernels, self.bias)


class UNetBlock(nn.Module):
    """Residual block with time embedding and optional self-attention, every sum scaled to keep its variance.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        emb_channels: width of the time embedding.
        up: double the picture.
        down: halve the picture.
        attention: one head of self-attention at the end.
        dropout: probability before the second convolution.
        taps: of the resampling filter.

    Source: Song et al. 2021, Appendix H (BigGAN-type blocks); Karras et al. 2022, Appendix F.2.
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
        """The block's output.

        Args:
            x: (N, in_channels, H, W).
            embedding: (N, emb_channels) of noise level, class and augmentation.

        Returns:
            (N, out_channels, H, W); with `up` (N, out_channels, 2H, 2W), with `down` (N, out_channels, H/2, W/2).
        """
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


def group_norm(channels: int) -> GroupNorm:
    """Group normalisation with at most 32 groups of at least 4 channels, as in the EDM score networks.

    Args:
        channels: of the feature map, at least 4; the number of groups has to divide it.

    Returns:
        The layer, scale 1 and shift 0 at its start.

    Source: Wu & He 2018, Eq. 7.
    """
    return GroupNorm(min(32, channels // 4), channels, eps=1e-6)
