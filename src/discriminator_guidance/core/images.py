"""Labelled image sets as uint8 arrays: made smaller, shown as a grid, or made of samples."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.core.files import write_bytes

GRID_COLUMNS, GRID_IMAGES = 12, 72
GRID_PIXELS = 48  # at least, of one image in the grid


@dataclass(frozen=True)
class Images:
    """Images (N, H, W, C) uint8, labels (N,) int64, and the names of the classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def as_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """Images (N, H, W, C) uint8 as (N, C, H, W) on a device."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def scaled(images: Tensor) -> Tensor:
    """Images in the units of the diffusion, float32: 8 bits become [-1, 1], floats are in these units."""
    return images.float() if images.is_floating_point() else images.float() / 127.5 - 1


def to_uint8(samples: Tensor) -> NDArray[np.uint8]:
    """Images (N, H, W, C) of samples (N, C, H, W) in about [-1, 1], clipped and rounded as EDM's generator does.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]).view(1, 3, 1, 1)).ravel().tolist()
    [0, 128, 255]
    """
    wide = samples.detach().to("cpu", torch.promote_types(samples.dtype, torch.float32))
    images: NDArray[np.uint8] = (
        (wide * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return images


def shrink(images: np.ndarray, image_size: int) -> np.ndarray:
    """Square images (N, H, W, C) uint8 brought to `image_size` by averaging over area (a box filter)."""
    height, width = images.shape[1:3]
    if height != width or height < image_size:
        raise ValueError(f"images of {width}x{height}, not square ones of at least {image_size}x{image_size}")
    if height == image_size:
        return images
    # Lengths shared by new and old pixels in units of 1/new old pixels: whole numbers whose sums of products stay far
    # below 2**53, so that float64 gives the same bytes on every machine.
    begin = np.maximum.outer(np.arange(image_size) * height, np.arange(height) * image_size)
    end = np.minimum.outer(np.arange(1, image_size + 1) * height, np.arange(1, height + 1) * image_size)
    overlaps = np.maximum(end - begin, 0).astype(np.float64)
    small = np.empty((len(images), image_size, image_size, images.shape[3]), dtype=np.uint8)
    for index, image in enumerate(images):
        columns = np.tensordot(image.astype(np.float64), overlaps, axes=(0, 1))  # (W, C, new H)
        sums = np.tensordot(columns, overlaps, axes=(0, 1)).transpose(1, 2, 0)
        small[index] = (2 * sums + height**2) // (2 * height**2)  # rounded, halves upwards
    return small


def content_digest(images: np.ndarray) -> str:
    """The SHA-256 of an array's shape and values."""
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def write_grid(path: Path, images: np.ndarray) -> None:
    """Write the first 72 images (N, H, W, C) uint8 as one PNG, enlarged without smoothing."""
    shown = images[:GRID_IMAGES]
    factor = max(1, GRID_PIXELS // shown.shape[1])
    large = shown.repeat(factor, axis=1).repeat(factor, axis=2)
    missing = -len(large) % GRID_COLUMNS
    framed = np.pad(large, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    framed = np.pad(framed, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    rows = framed.reshape(-1, GRID_COLUMNS, *framed.shape[1:])
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    write_png(path, grid)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 1 or 3) uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
