"""Work in progress that survives a kill: shards and checkpoints in a folder named by what determines the result."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from discriminator_guidance.artifacts.files import fingerprint, read_npz, write_bytes, write_npz


class PartialWork:
    """The resumable part of one stage run.

    Args:
        root: folder for all unfinished work (git-ignored, unknown to DVC).
        stage: the stage's name, for people who look into the folder.
        determinants: everything that determines the result: inputs, settings, code, versions, device.
    """

    def __init__(self, root: Path, stage: str, determinants: Mapping[str, Any]) -> None:
        self.folder = root / f"{stage}-{fingerprint(determinants)[:20]}"

    def load_shard(self, number: int) -> dict[str, np.ndarray] | None:
        """Read a finished shard.

        Args:
            number: of the shard, from 0.

        Returns:
            Its arrays by name, or None if it is not finished.

        Raises:
            InputError: the shard is damaged.
        """
        path = self._shard(number)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
        return read_npz(path, names, "of this shard")

    def save_shard(self, number: int, **arrays: np.ndarray) -> None:
        """Keep a finished shard.

        Args:
            number: of the shard, from 0.
            **arrays: by name.
        """
        write_npz(self._shard(number), **arrays)

    def load(self) -> dict[str, Any] | None:
        """Read the last training state.

        Returns:
            What was last given to `save`, or None.
        """
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, weights_only=True)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last training state.

        Args:
            state: tensors and plain values, nested in dictionaries and lists.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.folder / "checkpoint.pt", buffer.getvalue())

    def remove(self) -> None:
        """Forget the work: the stage's real outputs are written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.npz"
