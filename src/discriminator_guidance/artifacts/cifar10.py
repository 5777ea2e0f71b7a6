"""The official CIFAR-10 (Krizhevsky 2009), its pickles read as plain data: nothing in them can be executed."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from discriminator_guidance.artifacts.downscale import downscale
from discriminator_guidance.artifacts.images import Pictures
from discriminator_guidance.errors import InputError

ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_BYTES = 170_498_071
FOLDER = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"
META = "batches.meta"
PARTS = (META, *TRAIN, TEST)
MD5 = {
    ARCHIVE: "c58f30108f718f92721af3b95e74349a",
    META: "5ff9c542aee3614f3951f8cda6e48888",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    TEST: "40351d587109b95175f43aff81a1287e",
}
SIDE, CHANNELS, CLASSES = 32, 3, 10
MAX_PART_BYTES = 2**26
AGAIN = "download it again from the page of the data set"


def read_cifar10(path: Path, image_size: int, advance: Callable[[int], None]) -> tuple[Pictures, Pictures]:
    """Read the training and the test pictures, in their official order.

    Args:
        path: `cifar-10-python.tar.gz`, or the folder unpacked from it (or the one that contains that).
        image_size: height and width wanted, at most 32; smaller ones are averaged over area.
        advance: told of each of the `PARTS` read.

    Returns:
        50,000 training and 10,000 test pictures (N, image_size, image_size, 3).

    Raises:
        InputError: missing, truncated, of another checksum, or not laid out like the official one.
    """
    read = _from_folder(path) if path.is_dir() else _from_archive(path)
    names = _class_names(_unpickle(read(META), META))
    advance(1)
    images, labels = [], []
    for part in (*TRAIN, TEST):
        pixels, numbers = _batch(_unpickle(read(part), part), part)
        images.append(downscale(pixels, image_size, path))
        labels.append(numbers)
        advance(1)
    train = Pictures(np.concatenate(images[:-1]), np.concatenate(labels[:-1]), names)
    return train, Pictures(images[-1], labels[-1], names)


def _from_folder(path: Path) -> Callable[[str], bytes]:
    folder = path / FOLDER if (path / FOLDER).is_dir() else path

    def read(part: str) -> bytes:
        file = folder / part
        if not file.is_file():
            raise InputError(f"{file}", "no such file", f"unpack {ARCHIVE} again, or set real.path to the archive")
        with file.open("rb") as stream:
            content = stream.read(MAX_PART_BYTES)
        _check_md5(content, part, file)
        return content

    return read


def _from_archive(path: Path) -> Callable[[str], bytes]:
    if not path.is_file():
        raise InputError(f"{path}", "no such file or folder", "set real.path to where it is")
    size = path.stat().st_size
    if size != ARCHIVE_BYTES:
        kind = "a part of it" if size < ARCHIVE_BYTES else "another file"
        raise InputError(f"{ARCHIVE_BYTES:,} bytes in {path}", f"{size:,}, {kind}", AGAIN)
    content = path.read_bytes()
    _check_md5(content, ARCHIVE, path)
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                folder, _, part = member.name.rpartition("/")
                if folder == FOLDER and part in PARTS and member.isreg() and part not in parts:
                    stream = archive.extractfile(member)
                    parts[part] = stream.read(MAX_PART_BYTES) if stream else b""
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise InputError(f"a whole archive {path}", str(error), AGAIN) from error

    def read(part: str) -> bytes:
        if part not in parts:
            raise InputError(f"{FOLDER}/{part} in {path}", "no such file", AGAIN)
        return parts.pop(part)

    return read


def _check_md5(content: bytes, name: str, path: Path) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MD5[name]:
        raise InputError(f"md5 {MD5[name]} of {path}", found, AGAIN)


class _Dtype:
    """Stands for numpy.dtype; only bytes exist."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise ValueError(f"numbers of type {code!r} instead of u1")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which bytes do not have."""


class _Array:
    """Stands for numpy's array and its reconstruction; it has pixels once their shape and bytes are known."""

    pixels: np.ndarray | None = None

    def __init__(self, *_: object) -> None:
        """What numpy is told first says nothing: an empty array of bytes."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, bool, bytes]) -> None:
        _, shape, dtype, by_column, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise TypeError("not an array of bytes")
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_column else "C")


# All that official files name. A class with a `__setstate__` is also safe from a pickle that sets its attributes.
STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain data and stand-ins, nothing else."""

    def find_class(self, module: str, name: str) -> type:
        """The stand-in for a global; any other global is refused by name."""
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"the global {module}.{name}")
        return STAND_INS[module, name]


def _unpickle(content: bytes, part: str) -> dict[str, Any]:
    try:
        data = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        return {key.decode("ascii") if isinstance(key, bytes) else str(key): value for key, value in data.items()}
    except (
        pickle.PickleError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError,
        OverflowError, MemoryError, RecursionError,
    ) as error:  # fmt: skip
        raise InputError(f"a dictionary of plain data in {part}", str(error) or type(error).__name__, AGAIN) from error


def _class_names(meta: dict[str, Any]) -> tuple[str, ...]:
    names = meta.get("label_names")
    if not isinstance(names, list) or len(names) != CLASSES or not all(isinstance(n, bytes | str) for n in names):
        raise InputError(f"{CLASSES} label_names in {META}", repr(names)[:80], AGAIN)
    return tuple(name.decode("ascii", "replace") if isinstance(name, bytes) else name for name in names)


def _batch(batch: dict[str, Any], part: str) -> tuple[np.ndarray, np.ndarray]:
    rows = batch["data"].pixels if isinstance(batch.get("data"), _Array) else None
    labels = batch.get("labels")
    if rows is None or rows.ndim != 2 or rows.shape[1] != CHANNELS * SIDE**2:
        raise InputError(f"data (N, {CHANNELS * SIDE**2}) uint8 in {part}", "something else", AGAIN)
    if not isinstance(labels, list) or len(labels) != len(rows):
        raise InputError(f"{len(rows)} labels in {part}", "another number", AGAIN)
    if not all(type(label) is int and 0 <= label < CLASSES for label in labels):
        raise InputError(f"labels 0 .. {CLASSES - 1} in {part}", "others", AGAIN)
    images = np.ascontiguousarray(rows.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1))
    return images, np.array(labels, dtype=np.int64)
