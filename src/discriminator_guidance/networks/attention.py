"""Attention, by whichever way is fast for the number of positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Positions from which the weights of all pictures are not held at once; on a CPU in bfloat16 fewer, as autocast would
# keep them in float32.
MANY, MANY_BFLOAT16 = 512, 64
# Weights that are computed at once on a CPU in bfloat16: 4 MB, which stay in its cache.
TILE = 2**21


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, channels before positions.

    Args:
        query: (N, heads, channels, asking positions).
        key: (N, heads, channels, positions).
        value: (N, heads, channels, positions).

    Returns:
        (N, heads, channels, asking positions).

    Source: Vaswani et al. 2017, Eq. 1.
    """
    if _are_many(query.shape[3], key.shape[3], value):
        return attend_rows(*(part.transpose(2, 3) for part in (query, key, value))).transpose(2, 3)
    scale = query.shape[2] ** -0.25
    weight = ((query * scale).transpose(2, 3) @ (key * scale)).softmax(dim=3)
    attended: Tensor = value @ weight.transpose(2, 3)
    return attended


def attend_rows(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same, positions before channels.

    Args:
        query: (N, heads, asking positions, channels).
        key: (N, heads, positions, channels).
        value: (N, heads, positions, channels).

    Returns:
        (N, heads, asking positions, channels).

    Source: Vaswani et al. 2017, Eq. 1.
    """
    if not _are_many(query.shape[2], key.shape[2], value):
        return attend(*(part.transpose(2, 3) for part in (query, key, value))).transpose(2, 3)
    q, k, v = query.contiguous(), key.contiguous(), value.contiguous()
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    return _in_tiles(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view(q.shape)


def _are_many(asking: int, asked: int, value: Tensor) -> bool:
    tiled = value.device.type == "cpu" and value.dtype == torch.bfloat16
    return min(asking, asked) >= (MANY_BFLOAT16 if tiled else MANY)


def _in_tiles(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same head by head, where torch's fused kernel takes 1.5 to 2.5 times as long."""
    query = query * query.shape[2] ** -0.5
    with torch.autocast("cpu", enabled=False):
        if query.dtype == torch.float32:
            heads = zip(query, key, value, strict=True)
            return torch.stack([_product(_product(q, k).softmax(dim=1), v.T.contiguous()) for q, k, v in heads])
        size = max(1, TILE // (query.shape[1] * key.shape[1]))
        tiles = zip(*(torch.split(part, size) for part in (query, key, value)), strict=True)
        return torch.cat([(q @ k.mT).softmax(dim=2) @ v for q, k, v in tiles])


def _product(rows: Tensor, others: Tensor) -> Tensor:
    """rows (M, K) times the transpose of others (N, K), by a convolution of one pixel.

    Where torch has its float32 matrix products from a library that does not know the processor, its convolutions,
    from another, are twice as fast.
    """
    height = math.gcd(32, len(rows))
    picture = rows.view(1, height, -1, rows.shape[1]).permute(0, 3, 1, 2)
    products = F.conv2d(picture, others[:, :, None, None])
    return products.permute(0, 2, 3, 1).reshape(len(rows), -1)
