"""The official CIFAR-10 (Krizhevsky 2009) in its binary version: an archive of records, known by its checksum."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import reason, regular
from discriminator_guidance.core.images import Images, shrink

MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
TRAIN, TEST = [f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]
META = "batches.meta.txt"
RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, the green and the blue pixels


def read_cifar10(path: Path, image_size: int) -> tuple[Images, Images]:
    """The training and the test images in their official order, of `image_size` pixels, at most 32."""
    try:
        content = regular(path).read_bytes()
        if (md5 := hashlib.md5(content, usedforsecurity=False).hexdigest()) != MD5:
            raise ValueError(f"md5 {md5} of {len(content):,} bytes")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            return _images(archive, TRAIN, image_size), _images(archive, TEST, image_size)
    except Exception as error:  # gzip, tarfile and numpy raise some dozen types
        expected = f"the official CIFAR-10 archive (md5 {MD5}) in {path}"
        raise InputError(expected, reason(error), "download it again: dguide fetch cifar10") from error


def _images(archive: tarfile.TarFile, batches: list[str], image_size: int) -> Images:
    content = {name: archive.extractfile(f"{FOLDER}/{name}") or io.BytesIO() for name in (META, *batches)}
    records = b"".join(content[name].read() for name in batches)
    rows = np.frombuffer(records, np.uint8).reshape(-1, RECORD)
    images = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    names = tuple(content[META].read().decode("ascii").split())
    return Images(shrink(images, image_size), rows[:, 0].astype(np.int64), names)
