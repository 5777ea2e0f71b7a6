"""A small archive laid out like the official CIFAR-10 one."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dguide import sources

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNT = 12  # images in each batch


def rows_of(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (COUNT, 3072) uint8, channels first, and labels of a batch."""
    draw = np.random.default_rng(list(part.encode()))
    return draw.integers(0, 256, (COUNT, 3072), dtype=np.uint8), draw.integers(0, 10, COUNT, dtype=np.uint8)


def batch(part: str) -> bytes:
    """One batch file."""
    rows, labels = rows_of(part)
    return np.hstack([labels[:, None], rows]).tobytes()


def contents(**changed: bytes) -> dict[str, bytes]:
    """Every file of the archive by name, some of them replaced."""
    meta = "".join(f"{name}\n" for name in (*NAMES, "")).encode()
    parts = {part: batch(part) for part in (*sources.CIFAR10_TRAIN, *sources.CIFAR10_TEST)}
    return {sources.CIFAR10_NAMES: meta, **parts, **{f"{name}.bin": content for name, content in changed.items()}}


def write_archive(path: Path, parts: dict[str, bytes]) -> str:
    """Write an archive of these files; its md5."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"<html>", **parts}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_official(path: Path, monkeypatch: pytest.MonkeyPatch, **changed: bytes) -> Path:
    """Write an archive that passes for the official one."""
    monkeypatch.setattr(sources, "CIFAR10_MD5", write_archive(path, contents(**changed)))
    return path
