"""Sources of real pictures: always uint8 NHWC arrays and labels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.files import write_bytes
from discriminator_guidance.errors import InputError

GRID_COLUMNS = 12
GRID_ROWS = 6
GRID_PIXELS = 48
DIGITS = "datasets/data/digits.csv.gz"  # in the folder of scikit-learn


@dataclass(frozen=True)
class Pictures:
    """A labelled picture set: images (N, H, W, C) uint8, labels (N,) int64, the names of the classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def digits(image_size: int) -> Pictures:
    """The 1,797 real handwritten digits that are part of scikit-learn, enlarged bilinearly.

    Args:
        image_size: height and width in pixels, at least 8; the originals have 8.

    Returns:
        Grey pictures (1797, image_size, image_size, 1).

    Raises:
        InputError: scikit-learn lacks its file of them.
    """
    package = find_spec("sklearn")
    # Importing the package, for its `load_digits`, takes as long as all the rest of stage `real`.
    path = Path(package.origin).parent / DIGITS if package and package.origin else Path(DIGITS)
    if not path.is_file():
        raise InputError(f"scikit-learn's digits in {path}", "no such file", "install scikit-learn again")
    rows = np.loadtxt(path, delimiter=",", dtype=np.int64)
    small, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]  # 17 grey levels, 0 .. 16
    weights = _bilinear(8, image_size)
    sums = np.tensordot(np.tensordot(small, weights, axes=(1, 1)), weights, axes=(1, 1))
    images = np.rint(sums * 255 / (16 * (2 * image_size) ** 2)).astype(np.uint8)
    return Pictures(images[..., None], labels, tuple("0123456789"))


def _bilinear(old: int, new: int) -> np.ndarray:
    # Weights of old pixels in each new one, in units of 1 / (2 new), so that every machine makes the same bytes; what
    # lies outside the outermost centres is as they are (torch's `interpolate` without aligned corners).
    place = np.maximum((2 * np.arange(new) + 1) * old - new, 0)
    lower, share = place // (2 * new), place % (2 * new)
    weights = np.zeros((new, old), dtype=np.int64)
    np.add.at(weights, (np.arange(new), lower), 2 * new - share)
    np.add.at(weights, (np.arange(new), np.minimum(lower + 1, old - 1)), share)
    return weights


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
