"""Weights as safetensors, with the constructor arguments of their network beside them as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discriminator_guidance.artifacts.files import read_json, require, write_bytes, write_json
from discriminator_guidance.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

HEADER_START = 8  # bytes that hold the length of the header
CHECKSUM = "sha256"
WEIGHT_FILES = ("model.safetensors", "model.json")


def save_weights(folder: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, with a checksum of both files in its header, and `model.json`.

    Args:
        folder: where.
        state: tensors by their original names.
        arguments: constructor arguments of the network.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    checksum = _checksum(save(tensors), arguments)
    write_bytes(folder / "model.safetensors", save(tensors, {CHECKSUM: checksum}))
    write_json(folder / "model.json", arguments)


def load_weights(folder: Path, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote.

    Args:
        folder: where.
        stage: the stage that makes it, for the remedy.

    Returns:
        Tensors by name, and the constructor arguments.

    Raises:
        InputError: a file is missing or damaged, or the two do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / "model.safetensors"
    require(path, stage)
    arguments = read_json(folder / "model.json", stage)
    try:
        content = path.read_bytes()
        told = _header(content).get("__metadata__")
        # Files of before checksums have no metadata at all; DVC alone knows their bytes.
        if told is None or told.get(CHECKSUM) == _checksum(content, arguments):
            return load(content), arguments
        reason = "bytes that do not fit the checksum in them"
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise InputError(f"whole weights in {path} and the model.json beside it", reason, f"run stage {stage} again")


def _header(content: bytes) -> dict[str, Any]:
    header = json.loads(content[HEADER_START : HEADER_START + _header_bytes(content)])
    if not isinstance(header, dict):
        raise ValueError("a header that is no JSON object")
    return header


def _header_bytes(content: bytes) -> int:
    return int.from_bytes(content[:HEADER_START], "little")


def _checksum(content: bytes, arguments: Mapping[str, Any]) -> str:
    """SHA-256 of tensors, their names and places, and the constructor arguments; of the metadata nothing."""
    tensors = {name: entry for name, entry in _header(content).items() if name != "__metadata__"}
    digest = hashlib.sha256(json.dumps([tensors, arguments], sort_keys=True).encode())
    digest.update(memoryview(content)[HEADER_START + _header_bytes(content) :])
    return digest.hexdigest()
