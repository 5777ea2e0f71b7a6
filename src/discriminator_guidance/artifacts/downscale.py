"""Smaller pictures by area averaging, in whole numbers, so that every machine makes the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from discriminator_guidance.errors import InputError

CHUNK_PIXELS = 2**20


def downscale(images: np.ndarray, image_size: int, source: Path) -> np.ndarray:
    """Bring square pictures to a size by averaging over area (a box filter).

    Args:
        images: (N, H, W, C) uint8.
        image_size: height and width wanted, in pixels, at most H.
        source: the file they come from, for the message.

    Returns:
        (N, image_size, image_size, C) uint8; the array itself where the size is right already.

    Raises:
        InputError: not square, or smaller than what is wanted.
    """
    height, width = images.shape[1:3]
    if height != width or height < image_size:
        raise InputError(
            f"square pictures of at least {image_size}x{image_size} pixels in {source}",
            f"{width}x{height}",
            "crop them, or choose a smaller real.image_size",
        )
    if height == image_size:
        return images
    weights = _overlaps(height, image_size)
    area = height**2
    small = np.empty((len(images), image_size, image_size, images.shape[3]), dtype=np.uint8)
    step = max(1, CHUNK_PIXELS // area)
    for start in range(0, len(images), step):
        chunk = images[start : start + step].astype(np.float64)
        columns = np.tensordot(chunk, weights, axes=(1, 1))  # (n, W, C, new H)
        sums = np.tensordot(columns, weights, axes=(1, 1)).transpose(0, 2, 3, 1)
        small[start : start + step] = (2 * sums + area) // (2 * area)  # rounded, halves upwards
    return small


def _overlaps(old: int, new: int) -> np.ndarray:
    # Lengths shared by new and old pixels, in units of 1/new old pixels: whole numbers, each row sums to `old`. Sums of
    # products stay far below 2**53, so float64 arithmetic is exact in whatever order a library adds.
    begin = np.maximum.outer(np.arange(new) * old, np.arange(old) * new)
    end = np.minimum.outer(np.arange(1, new + 1) * old, np.arange(1, old + 1) * new)
    overlaps: np.ndarray = np.maximum(end - begin, 0).astype(np.float64)
    return overlaps
