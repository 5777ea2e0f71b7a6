"""Shards and checkpoints that survive a kill, in a folder named by everything that determines the result."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from discriminator_guidance.errors import InputError
from discriminator_guidance.files import fingerprint, load_arrays, write_bytes, write_npz


class Resumable:
    """The resumable part of one run: a folder `root`/`name`-<hash of `key`>; damaged files count as missing."""

    def __init__(self, root: Path, name: str, key: Mapping[str, Any]) -> None:
        self.folder = root / f"{name}-{fingerprint(key)[:20]}"

    def load_shard(self, number: int) -> dict[str, np.ndarray] | None:
        """The arrays of a shard by name."""
        try:
            return load_arrays(self._shard(number), None, "delete it")
        except InputError:
            return None

    def save_shard(self, number: int, **arrays: np.ndarray) -> None:
        """Keep a finished shard, counted from 0."""
        write_npz(self._shard(number), **arrays)

    def load(self) -> dict[str, Any] | None:
        """The state last given to `save`, on the CPU: networks and optimizers move it to their own device."""
        import torch

        path = self.folder / "checkpoint.pt"
        try:
            with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums and does not compare them
                if archive.testzip() is not None:
                    return None
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # zipfile and PyTorch raise some dozen types on damaged bytes
            return None
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the training state: tensors and plain values, nested in dictionaries and lists."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_bytes(self.folder / "checkpoint.pt", buffer.getvalue())

    def remove(self) -> None:
        """Delete the folder, once the outputs of the stage are written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.npz"
