"""The official CIFAR-10 (Krizhevsky 2009): an archive of pickles, known by its checksum and never unpickled freely."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from discriminator_guidance.checkpoints.restricted_pickle import read_pickle
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import reason, regular
from discriminator_guidance.core.images import Images, shrink

MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
TRAIN, TEST, META = [f"data_batch_{number}" for number in range(1, 6)], "test_batch", "batches.meta"
ALLOWED = {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"}


def read_cifar10(path: Path, image_size: int) -> tuple[Images, Images]:
    """The training and the test images in their official order, of `image_size` pixels, at most 32."""
    try:
        content = regular(path).read_bytes()
        if (md5 := hashlib.md5(content, usedforsecurity=False).hexdigest()) != MD5:
            raise ValueError(f"md5 {md5} of {len(content):,} bytes")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            names = tuple(name.decode("ascii") for name in _unpickled(archive, META)[b"label_names"])
            train, test = ([_unpickled(archive, part) for part in parts] for parts in (TRAIN, [TEST]))
        return _images(train, image_size, names), _images(test, image_size, names)
    except Exception as error:  # gzip, tarfile, pickle and numpy raise some dozen types
        expected = f"the official CIFAR-10 archive (md5 {MD5}) in {path}"
        raise InputError(expected, reason(error), "download it again: dguide fetch cifar10") from error


def _unpickled(archive: tarfile.TarFile, part: str) -> dict[bytes, Any]:
    stream = archive.extractfile(f"{FOLDER}/{part}") or io.BytesIO()
    data: dict[bytes, Any] = read_pickle(stream.read(), ALLOWED, "bytes")
    return data


def _images(batches: list[dict[bytes, Any]], image_size: int, names: tuple[str, ...]) -> Images:
    rows = np.concatenate([_array(batch[b"data"].state) for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch[b"labels"] for batch in batches]).astype(np.int64)
    return Images(shrink(np.ascontiguousarray(rows.transpose(0, 2, 3, 1)), image_size), labels, names)


def _array(state: tuple[int, tuple[int, ...], object, bool, bytes]) -> np.ndarray:
    _, shape, _, by_column, content = state
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_column else "C")
