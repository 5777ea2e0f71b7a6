"""The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels of 17 grey levels, from data/raw/digits.npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

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
    # In double precision exact at 16, 32 and 64 pixels, so that every machine makes the same bytes.
    large = interpolate(torch.from_numpy(small)[:, None].double(), size=image_size, mode="bilinear")
    images = np.rint(large.permute(0, 2, 3, 1).numpy() * 255 / LEVELS).astype(np.uint8)
    return Images(images, labels.astype(np.int64), tuple("0123456789"))
