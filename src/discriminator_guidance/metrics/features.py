"""Features of images in a fixed network, and the check that every set of them passes before a metric reads it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.errors import InputError

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


def extract_features(
    features_of: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device | str,
    advance: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float32]:
    """Compute the (N, d) features of (N, H, W, C) images; the network gets float32 NCHW batches in [-1, 1]."""
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        expected, remedy = "images (N, H, W, C), uint8, N at least 1", "convert them, or make them again"
        raise InputError(expected, f"{images.dtype} of shape {images.shape}", remedy)
    batches = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
            scaled = pixels.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
            batches.append(features_of(scaled).float().cpu().numpy())
            advance(len(pixels))
    features: NDArray[np.float32] = np.concatenate(batches)
    _require_finite(features)
    return features


def comparable(*sets: Floats) -> list[Doubles]:
    """Feature sets (N, d) as float64; an InputError for a set of one row, for NaN, or for two widths d."""
    sets = tuple(map(np.asarray, sets))  # of torch tensors too
    for features in sets:
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != sets[0].shape[1]:
            shapes = " and ".join(str(each.shape) for each in sets)
            expected, remedy = "features (N, d) of one network, N at least 2", "extract them again, of more images"
            raise InputError(expected, f"shapes {shapes}", remedy)
        _require_finite(features)
    return [np.asarray(features, dtype=np.float64) for features in sets]


def _require_finite(features: Floats) -> None:
    rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(rows):
        found = f"NaN or infinity in {len(rows)} of {len(features)} rows, first in row {rows[0]}"
        remedy = f"look at sample {rows[0]}: the image or the network that produced it is damaged"
        raise InputError("finite features", found, remedy)
