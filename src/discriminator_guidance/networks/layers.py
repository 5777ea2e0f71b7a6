"""Layers that all networks share: time embedding, attention and resampling, with faster kernels for CPUs."""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Positions from which attention weights are computed in tiles of at most TILE, which stay in the processor's cache.
MANY, TILE = 64, 2**21
WIDEST = 64  # images up to this width are resampled by a matrix product, whose work grows with the width


def sinusoidal_embedding(time: Tensor, channels: int, endpoint: bool) -> Tensor:
    """Cosines, then sines (and 0 if odd), of (N,) times at frequencies falling from 1 to 1 / 10,000: (N, channels).

    `endpoint`: the last frequency is exactly 1 / 10,000 (DDPM++), or stops one short of it (ADM).
    Vaswani et al. 2017, Section 3.5; Ho et al. 2020, Appendix B.
    """
    half = channels // 2
    fraction = torch.arange(half, device=time.device, dtype=time.dtype) / (half - 1 if endpoint else half)
    angle = time[:, None] * torch.exp(-math.log(10_000) * fraction)
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, channels % 2))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention on (N, heads, channels, positions) (Vaswani et al. 2017, Eq. 1)."""
    if query.device.type != "cpu":
        q, k, v = (part.transpose(2, 3).contiguous() for part in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
    # On CPUs torch's fused kernel, in bfloat16 with gradients, takes 1.7 (1,024 positions) to 7 times as long (16).
    scale = query.shape[2] ** -0.25
    query, key = query * scale, key * scale
    if min(query.shape[3], key.shape[3]) < MANY:
        return value @ (query.transpose(2, 3) @ key).softmax(dim=3).transpose(2, 3)
    size = max(1, TILE // (query.shape[3] * key.shape[3]))
    rows = (query.flatten(0, 1).mT.contiguous(), key.flatten(0, 1), value.flatten(0, 1).mT.contiguous())
    tiles = zip(*(torch.split(part, size) for part in rows), strict=True)
    with torch.autocast("cpu", enabled=False):  # it would compute the weights in float32
        attended = torch.cat([(q @ k).softmax(dim=2) @ v for q, k, v in tiles])
    return attended.mT.reshape(query.shape)


def halve(x: Tensor) -> Tensor:
    """Average every square of two by two pixels: (N, C, H, W) -> (N, C, H/2, W/2)."""
    n, channels, height, width = x.shape
    if not _multiplies(x) or height % 2 or width % 2:
        return F.avg_pool2d(x, 2)
    # Two rows of an image lie side by side in memory: a row of the product.
    means = (_repeats(width // 2, x.dtype) / 4).T.contiguous()  # (2 width, width / 2): from two rows of pixels to one
    return _product(x.reshape(-1, 2 * width), means).view(n, channels, height // 2, width // 2)


def double(x: Tensor) -> Tensor:
    """Repeat every pixel as a square of two by two: (N, C, H, W) -> (N, C, 2H, 2W)."""
    n, channels, height, width = x.shape
    if not _multiplies(x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return _product(x.reshape(-1, width), _repeats(width, x.dtype)).view(n, channels, 2 * height, 2 * width)


def _multiplies(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[3] <= WIDEST and x.is_contiguous()


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    # Multiplying finite values by 1 or 1/4 is exact in every format. Autocast would round float32 rows.
    with torch.autocast("cpu", enabled=False):
        return rows @ matrix


@lru_cache(maxsize=32)
def _repeats(width: int, dtype: torch.dtype) -> Tensor:
    """(width, 4 width): from a row of pixels to two of twice the width."""
    with torch.inference_mode(False):  # what is made in inference mode cannot take part in gradients later
        return torch.eye(width, dtype=dtype, device="cpu").repeat_interleave(2, dim=1).repeat(1, 2)
