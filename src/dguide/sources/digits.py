"""The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels of 17 grey levels, from data/raw/digits.npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import load_arrays
from discriminator_guidance.core.images import Images

SIDE, LEVELS = 8, 16


def read_digits(path: Path, image_size: int) -> Images:
    """Grey images (N, image_size, image_size, 1), enlarged bilinearly; image_size is at least 8."""
    remedy = "restore data/raw/digits.npz from git"
    arrays = load_arrays(path, ("images", "labels"), remedy)
    small, labels = arrays["images"], arrays["labels"]
    fitting = small.dtype == labels.dtype == np.uint8 and small.shape == (labels.size, SIDE, SIDE) and labels.ndim == 1
    if not fitting or not small.size or small.max() > LEVELS or labels.max() > 9:
        raise InputError(f"images (N, 8, 8) of 0 .. 16 and their labels in {path}", f"{small.shape}", remedy)
    weights = _bilinear(SIDE, image_size)
    sums = np.tensordot(np.tensordot(small.astype(np.int64), weights, axes=(1, 1)), weights, axes=(1, 1))
    images = np.rint(sums * 255 / (LEVELS * (2 * image_size) ** 2)).astype(np.uint8)
    return Images(images[..., None], labels.astype(np.int64), tuple("0123456789"))


def _bilinear(old: int, new: int) -> np.ndarray:
    # Weights of old pixels in each new one, in units of 1 / (2 new), so that every machine makes the same bytes; what
    # lies outside the outermost centres is as they are (torch's `interpolate` without aligned corners).
    position = np.maximum((2 * np.arange(new) + 1) * old - new, 0)
    lower, share = position // (2 * new), position % (2 * new)
    weights = np.zeros((new, old), dtype=np.int64)
    np.add.at(weights, (np.arange(new), lower), 2 * new - share)
    np.add.at(weights, (np.arange(new), np.minimum(lower + 1, old - 1)), share)
    return weights
