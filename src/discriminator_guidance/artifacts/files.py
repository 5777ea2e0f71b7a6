"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from discriminator_guidance.errors import InputError, OutputError

# What numpy and zipfile raise on bytes that are not a whole archive of plain arrays, found by fuzzing.
ARCHIVE_ERRORS = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, MemoryError,
    NotImplementedError, RuntimeError, SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


TEMPORARY = ".tmp"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader never sees a part of it.

    Args:
        path: its final name; missing folders are made.
        content: what it will hold.

    Raises:
        OutputError: no room, no permission or a quota; what was there before is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"to write {path} ({len(content):,} bytes)",
            str(error.strerror or error),
            "give it room and permission and run the same command again; what is complete is kept",
        ) from error


def write_json(path: Path, data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON file, keys in the order given, numbers at full precision.

    Args:
        path: where.
        data: what.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    write_bytes(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read a JSON file of another stage.

    Args:
        path: where.
        stage: the stage that makes it, for the remedy.

    Returns:
        The object it holds.

    Raises:
        InputError: missing, or not a JSON object.
    """
    require(path, stage)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"JSON in {path}", str(error), f"run stage {stage} again") from error
    if not isinstance(data, dict):
        raise InputError(f"a JSON object in {path}", type(data).__name__, f"run stage {stage} again")
    return data


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write plain arrays; the same arrays give the same bytes.

    Args:
        path: where.
        arrays: by name.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def read_npz(path: Path, names: Sequence[str], stage: str, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read plain arrays of another stage.

    Args:
        path: where.
        names: the arrays wanted.
        stage: the stage that makes the file, for the remedy.
        optional: arrays wanted where the file has them.

    Returns:
        The arrays by name.

    Raises:
        InputError: missing, damaged, or without one of the names.
    """
    require(path, stage)
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if not missing:
                return {name: read_array(archive, name) for name in (*names, *optional) if name in archive.files}
    except ARCHIVE_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"a whole .npz file {path}", reason, f"run stage {stage} again") from error
    raise InputError(f"array {missing[0]} in {path}", "no such array", f"run stage {stage} again")


def read_array(archive: NpzFile, name: str) -> np.ndarray:
    """Read an array of an open archive, and refuse one whose header tells of fewer numbers than are there.

    numpy takes as many bytes as the header asks for, and zipfile compares the checksum only where an entry was read to
    its end: a bit that flips in the header would silently give a shorter array.

    Args:
        archive: opened by `np.load`.
        name: of the array.

    Returns:
        The array.

    Raises:
        ValueError: bytes are left over; and whatever else numpy and zipfile raise, see ARCHIVE_ERRORS.
    """
    if archive.zip is None:
        raise ValueError("the archive is closed")
    with archive.zip.open(f"{name}.npy") as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"array {name} has more bytes than its header says")
    return array


def read_array_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[np.dtype, int, int]:
    """What an array would take, before it is given memory.

    Args:
        archive: an .npz.
        entry: of the array.

    Returns:
        Its dtype, the bytes that its header claims, and those that the archive claims to have.

    Raises:
        ValueError: it is no array; and whatever else numpy and zipfile raise, see ARCHIVE_ERRORS.
    """
    with archive.open(entry) as stream:
        first = np.lib.format.read_magic(stream) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        return dtype, math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()


def write_csv(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Write rows with a header taken from the first.

    Args:
        path: where.
        rows: at least one; floats are written with enough digits to be read back exactly.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())


def require(path: Path, stage: str) -> None:
    """Refuse to start without an input.

    Args:
        path: the file.
        stage: the stage that makes it.

    Raises:
        InputError: it is not there.
    """
    if not path.is_file():
        raise InputError(f"{path}", "no such file", f"run `dvc repro` (stage {stage} makes it)")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(data: Mapping[str, Any]) -> str:
    """A hash of plain settings that does not depend on the order of keys.

    Args:
        data: JSON-like values; infinity is allowed.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
