"""Sources of real pictures: always uint8 NHWC arrays and labels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.files import write_bytes

GRID_COLUMNS = 12
GRID_ROWS = 6
GRID_PIXELS = 48


@dataclass(frozen=True)
class Pictures:
    """A labelled picture set: images (N, H, W, C) uint8, labels (N,) int64, the names of the classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def digits(image_size: int) -> Pictures:
    """The 1,797 real handwritten digits that are part of scikit-learn, enlarged bilinearly.

    Args:
        image_size: height and width in pixels; the originals have 8.

    Returns:
        Grey pictures (1797, image_size, image_size, 1).
    """
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import interpolate

    source = load_digits()
    small = torch.from_numpy(source.images).unsqueeze(1) / 16.0  # 17 grey levels, 0 .. 16
    large = interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Pictures(images, source.target.astype(np.int64), tuple(str(name) for name in source.target_names))


def to_uint8(samples: np.ndarray) -> np.ndarray:
    """Pictures from samples in diffusion units.

    Args:
        samples: (N, C, H, W) about [-1, 1].

    Returns:
        (N, H, W, C) uint8.

    Source: the rounding of the official EDM sampler, (127.5 x + 128) cut off to whole numbers.
    """
    return np.clip(samples * 127.5 + 128, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def content_digest(images: np.ndarray) -> str:
    """A hash of a set's shape and values.

    Args:
        images: (N, ...) pictures or features, always of one type.

    Returns:
        64 hexadecimal digits.
    """
    import hashlib

    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def write_grid(path: Path, images: np.ndarray) -> None:
    """Write the first pictures of a set as one PNG, enlarged without smoothing.

    Args:
        path: where.
        images: (N, H, W, C) uint8, grey or RGB.
    """
    from PIL import Image

    shown = images[: GRID_COLUMNS * GRID_ROWS]
    factor = max(1, GRID_PIXELS // shown.shape[1])
    large = shown.repeat(factor, axis=1).repeat(factor, axis=2)
    framed = np.pad(large, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    missing = -len(framed) % GRID_COLUMNS
    framed = np.pad(framed, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    rows = framed.reshape(-1, GRID_COLUMNS, *framed.shape[1:])
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
