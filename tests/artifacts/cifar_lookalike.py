"""A small archive laid out like the official CIFAR-10 one, its pickles written opcode by opcode as in Python 2."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from discriminator_guidance.artifacts import cifar10

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def text(value: str | bytes) -> bytes:
    """A byte string of Python 2, or a unicode one where `value` is str."""
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def listed(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def array(rows: np.ndarray, dtype: bytes = b"u1") -> bytes:
    kind = b"cnumpy\ndtype\n" + text(dtype) + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    shape = b"".join(number(length) for length in rows.shape) + b"\x86"
    return empty + b"(" + number(1) + shape + kind + b"\x89" + text(rows.tobytes()) + b"tb"


def dictionary(entries: dict[str | bytes, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


def rows_of(part: str, count: int) -> tuple[np.ndarray, list[int]]:
    draw = np.random.default_rng(cifar10.PARTS.index(part))
    return draw.integers(0, 256, (count, 3072), dtype=np.uint8), draw.integers(0, 10, count).tolist()


def batch(part: str, count: int = 12, unicode_keys: bool = False, **changed: bytes) -> bytes:
    rows, labels = rows_of(part, count)
    entries = {
        "batch_label": text(b"training batch"),
        "labels": listed([number(label) for label in labels]),
        "data": array(rows),
        "filenames": listed([text(b"leptodactylus_pentadactylus_s_000004.png")] * count),
    } | changed
    return dictionary({(key if unicode_keys else key.encode()): value for key, value in entries.items()})


def meta() -> bytes:
    names = listed([text(name.encode()) for name in NAMES])
    return dictionary({b"num_cases_per_batch": number(12), b"label_names": names, b"num_vis": number(3072)})


def contents(**changed: bytes) -> dict[str, bytes]:
    """Every part of the archive by name, some of them replaced."""
    parts = {cifar10.META: meta()} | {part: batch(part) for part in cifar10.PARTS[1:]}
    return parts | changed


def write_archive(path: Path, parts: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"<html>", **parts}.items():
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def trust(monkeypatch: pytest.MonkeyPatch, archive: Path | None = None, parts: dict[str, bytes] | None = None) -> None:
    """Make what was written the official data, so that reading comes past the checksums."""
    digests = {name: hashlib.md5(content).hexdigest() for name, content in (parts or {}).items()}
    if archive is not None:
        digests[cifar10.ARCHIVE] = hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(cifar10, "ARCHIVE_BYTES", archive.stat().st_size)
    monkeypatch.setattr(cifar10, "MD5", cifar10.MD5 | digests)
