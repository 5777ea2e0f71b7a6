"""Doubling and halving of pictures by low-pass filters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Widest picture that is resampled by a matrix product on a CPU, as its work grows with the width. There torch's own
# pooling takes 3 to 14 times as long, its doubling 2 to 28 times (widths 4 to 32, one thread, forward and backward).
WIDEST = 64


def halve(x: Tensor) -> Tensor:
    """Average every square of two by two.

    Args:
        x: (N, C, H, W), H and W even.

    Returns:
        (N, C, H/2, W/2).
    """
    if not _multiplies(x) or x.shape[2] % 2 or x.shape[3] % 2:
        return F.avg_pool2d(x, 2)
    width = x.shape[3]
    # Two rows of a picture lie side by side in memory: a row of the product.
    return _product(x.reshape(-1, 2 * width), _averages(width, x.dtype)).view(*_sizes(x, 0.5))


def double(x: Tensor) -> Tensor:
    """Repeat every pixel as a square of two by two.

    Args:
        x: (N, C, H, W).

    Returns:
        (N, C, 2H, 2W).
    """
    if not _multiplies(x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    width = x.shape[3]
    return _product(x.reshape(-1, width), _repeats(width, x.dtype)).view(*_sizes(x, 2))


def separable_filter(taps: Sequence[int]) -> Tensor:
    """The two-dimensional low-pass filter of one-dimensional taps, their outer product with themselves.

    Args:
        taps: k numbers, symmetric, k even.

    Returns:
        (1, 1, k, k) float32, sums to 1.

    Raises:
        ValueError: an odd number of taps, or taps that are not symmetric.
    """
    if len(taps) % 2 or tuple(taps) != tuple(reversed(taps)):
        raise ValueError(f"resample_filter must have an even number of symmetric taps; it is {tuple(taps)}")
    row = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(row, row) / row.sum().square())[None, None]


def resample(x: Tensor, low_pass: Tensor, up: bool, padding: int) -> Tensor:
    """Filter every channel and double, or halve, the picture.

    Args:
        x: (N, C, H, W).
        low_pass: (1, 1, k, k), sums to 1.
        up: double, else halve.
        padding: zeros around the picture; (k - 1) // 2 makes the factor exactly 2.

    Returns:
        (N, C, 2H, 2W) or (N, C, H/2, W/2).

    Source: Song et al. 2021, Appendix H (finite impulse response); Karras et al. 2022, Table 1.
    """
    if low_pass.shape[-1] == 2:  # two symmetric taps average: far faster without a convolution
        return double(x) if up else halve(x)
    channels = x.shape[1]
    kernel = low_pass.to(x.dtype).expand(channels, 1, -1, -1)
    if up:
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)
    return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)


class Resample(nn.Module):
    """Doubling or halving of a picture.

    Args:
        taps: of the separable low-pass filter: (1, 1) (DDPM++) or (1, 3, 3, 1) (NCSN++).
        up: double, else halve.

    Raises:
        ValueError: an odd number of taps, or taps that are not symmetric.
    """

    resample_filter: Tensor

    def __init__(self, taps: Sequence[int], up: bool) -> None:
        super().__init__()
        self.up, self.margin = up, (len(taps) - 1) // 2
        self.register_buffer("resample_filter", separable_filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        """The picture at twice or half the size.

        Args:
            x: (N, C, H, W).

        Returns:
            (N, C, 2H, 2W) or (N, C, H/2, W/2).
        """
        return resample(x, self.resample_filter, self.up, self.margin)


def _multiplies(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[3] <= WIDEST and x.is_contiguous()


def _sizes(x: Tensor, factor: float) -> tuple[int, int, int, int]:
    n, channels, height, width = x.shape
    return n, channels, int(height * factor), int(width * factor)


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    # Multiplying finite values by 1 or 1/4 is exact in every format. Autocast would round float32 rows.
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ matrix


@lru_cache(maxsize=32)
def _averages(width: int, dtype: torch.dtype) -> Tensor:
    """(2 width, width / 2): from two rows of pixels to one of means."""
    with torch.inference_mode(False):  # what is made in inference mode cannot take part in gradients later
        return (_repeats(width // 2, dtype) / 4).T.contiguous()


@lru_cache(maxsize=32)
def _repeats(width: int, dtype: torch.dtype) -> Tensor:
    """(width, 4 width): from a row of pixels to two of twice the width."""
    with torch.inference_mode(False):
        return torch.eye(width, dtype=dtype, device="cpu").repeat_interleave(2, dim=1).repeat(1, 2)
