"""Work in progress that survives a kill: shards and checkpoints in a folder named by what determines the result."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from discriminator_guidance.artifacts.files import fingerprint, write_bytes

SUFFIX = ".sealed"
SEAL_BYTES = hashlib.sha256().digest_size


class PartialWork:
    """The resumable part of one stage run.

    Every file begins with a seal, the SHA-256 of its folder, its name and its contents: a shard that is damaged, or
    lies at the place of another, is not taken for finished.

    Args:
        root: folder for all unfinished work (git-ignored, unknown to DVC).
        stage: the stage's name, for people who look into the folder.
        determinants: everything that determines the result: inputs, settings, code, versions, device.
        notice: told of a file that was damaged, whose work is done again.
    """

    def __init__(self, root: Path, stage: str, determinants: Mapping[str, Any], notice: Callable[[str], None]) -> None:
        self.folder = root / f"{stage}-{fingerprint(determinants)[:20]}"
        self._notice = notice

    def load_shard(self, number: int) -> dict[str, np.ndarray] | None:
        """Read a finished shard.

        Args:
            number: of the shard, from 0.

        Returns:
            Its arrays by name, or None if it is not finished, or damaged.
        """
        content = self._open(_shard(number))
        if content is None:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def has_shard(self, number: int) -> bool:
        """Whether a shard was saved, damaged or not; cheap.

        Args:
            number: of the shard, from 0.

        Returns:
            Whether its file is there.
        """
        return self._path(_shard(number)).is_file()

    def save_shard(self, number: int, **arrays: np.ndarray) -> None:
        """Keep a finished shard.

        Args:
            number: of the shard, from 0.
            **arrays: by name.
        """
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        self._close(_shard(number), buffer.getvalue())

    def load(self) -> dict[str, Any] | None:
        """Read the last training state.

        Returns:
            What was last given to `save`, or None: nothing was, or it is damaged.
        """
        content = self._open("checkpoint")
        if content is None:
            return None
        import torch

        # Not where it was saved from: networks and optimizers move it to their own device, each rank to another.
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last training state.

        Args:
            state: tensors and plain values, nested in dictionaries and lists.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._close("checkpoint", buffer.getvalue())

    def remove(self) -> None:
        """Forget the work: the stage's real outputs are written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self, name: str) -> bytes | None:
        path = self._path(name)
        if not path.is_file():
            return None
        content = unsealed(path)
        if content is None:
            self._notice(f"{path} is damaged; its work is done again")
        return content

    def _close(self, name: str, content: bytes) -> None:
        path = self._path(name)
        write_bytes(path, _seal(path, content) + content)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"


def unsealed(path: Path) -> bytes | None:
    """Read a file of unfinished work.

    Args:
        path: the file.

    Returns:
        What was written there; None if it is anything else.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    seal, content = content[:SEAL_BYTES], content[SEAL_BYTES:]
    return content if seal == _seal(path, content) else None


def sealed_files(root: Path) -> Iterator[Path]:
    """The files of all unfinished work.

    Args:
        root: folder for all unfinished work.

    Yields:
        Paths, in order.
    """
    yield from sorted(root.glob(f"*/*{SUFFIX}"))


def _seal(path: Path, content: bytes) -> bytes:
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}\0".encode())
    digest.update(content)
    return digest.digest()


def _shard(number: int) -> str:
    return f"shard-{number:05d}"
