"""Labelled pictures from an .npz file, checked before they are given memory."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.files import ARCHIVE_ERRORS, read_array, read_array_header
from discriminator_guidance.errors import InputError

MAX_ARRAY_BYTES = 2**32


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read `images` and `labels` of an .npz file; other arrays are ignored.

    Args:
        path: where.

    Returns:
        images (N, H, W, C) uint8, C being 1 or 3; labels (N,) int64, from 0.

    Raises:
        InputError: missing, damaged, objects instead of numbers, absurdly large, or of the wrong dtype, shape or count.
    """
    if not path.is_file():
        raise InputError(f"{path}", "no such file", "set real.path (or real.holdout_path) to where it is")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("images", "labels"):
                _check_header(path, archive, name)
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = read_array(arrays, "images"), read_array(arrays, "labels")
    except ARCHIVE_ERRORS as error:
        raise InputError(f"a whole .npz file {path}", str(error), "copy or make it again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise InputError(
            f"images (N, H, W, 1 or 3) uint8 in {path}", f"{images.shape} {images.dtype}", "write the array that way"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or labels.min() < 0:
        raise InputError(
            f"labels ({len(images)},) of whole numbers from 0 in {path}",
            f"{labels.shape} {labels.dtype}",
            "write one label for each picture",
        )
    return images, labels.astype(np.int64)


def _check_header(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    found = [entry for entry in archive.infolist() if entry.filename == f"{name}.npy"]
    if len(found) != 1:
        raise InputError(
            f"one array {name} in {path}", f"{len(found)} of that name", "see configs/mini.yaml, real.path"
        )
    dtype, claimed, present = read_array_header(archive, found[0])
    if dtype.hasobject:
        raise InputError(f"plain numbers as {name} in {path}", "Python objects", "write an integer array")
    if claimed > MAX_ARRAY_BYTES or claimed != present:
        raise InputError(
            f"{name} of at most {MAX_ARRAY_BYTES:,} bytes, all present, in {path}",
            f"a header that claims {claimed:,} bytes",
            "make the file again",
        )
