"""A small archive laid out like the official CIFAR-10 one."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dguide.sources import cifar10

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNT = 12  # images in each batch


def rows_of(part: str, count: int = COUNT) -> tuple[np.ndarray, list[int]]:
    """Images (count, 3072) uint8, channels first, and labels of a batch."""
    draw = np.random.default_rng(list(part.encode()))
    return draw.integers(0, 256, (count, 3072), dtype=np.uint8), draw.integers(0, 10, count).tolist()


def pickled(data: Any) -> bytes:
    """A pickle that names numpy's functions as the official files do."""
    return pickle.dumps(data, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(part: str, count: int = COUNT, **changed: Any) -> bytes:
    """One batch file, some of its entries replaced."""
    rows, labels = rows_of(part, count)
    rows = np.asfortranarray(rows) if part == "data_batch_2" else rows
    data = {"batch_label": b"training batch", "labels": labels, "data": rows, "filenames": [b"a.png"] * count}
    return pickled({name.encode(): value for name, value in (data | changed).items()})


def contents(count: int = COUNT, **changed: bytes) -> dict[str, bytes]:
    """Every file of the archive by name, some of them replaced."""
    parts = {part: batch(part, count) for part in (*cifar10.TRAIN, cifar10.TEST)}
    meta = pickled({b"num_cases_per_batch": count, b"label_names": [name.encode() for name in NAMES]})
    return {cifar10.META: meta, **parts, **changed}


def write_archive(path: Path, parts: dict[str, bytes]) -> str:
    """Write an archive of these files; its md5."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"<html>", **parts}.items():
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_official(path: Path, monkeypatch: pytest.MonkeyPatch, **changed: bytes) -> Path:
    """Write an archive that passes for the official one."""
    monkeypatch.setattr(cifar10, "MD5", write_archive(path, contents(**changed)))
    return path
