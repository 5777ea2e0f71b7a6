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
RECORD = "record"  # in model.json, beside the constructor arguments


def save_weights(
    folder: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> None:
    """Write `model.safetensors`, with a checksum of both files in its header, and `model.json`.

    Args:
        folder: where.
        state: tensors by their original names.
        arguments: constructor arguments of the network.
        record: what else must be said of how it came about; nothing is written where there is nothing to say.
    """
    from safetensors.torch import save

    told = {**arguments, RECORD: dict(record)} if record else arguments

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    checksum = _checksum(save(tensors), told)
    write_bytes(folder / "model.safetensors", save(tensors, {CHECKSUM: checksum}))
    write_json(folder / "model.json", told)


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
    told = read_json(folder / "model.json", stage)
    try:
        content = path.read_bytes()
        metadata = _header(content).get("__metadata__")
        # Files of before checksums have no metadata at all; DVC alone knows their bytes.
        if metadata is None or metadata.get(CHECKSUM) == _checksum(content, told):
            return load(content), {key: value for key, value in told.items() if key != RECORD}
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


def _checksum(content: bytes, told: Mapping[str, Any]) -> str:
    """SHA-256 of tensors, their names and places, and model.json; of the metadata nothing."""
    tensors = {name: entry for name, entry in _header(content).items() if name != "__metadata__"}
    digest = hashlib.sha256(json.dumps([tensors, told], sort_keys=True).encode())
    digest.update(memoryview(content)[HEADER_START + _header_bytes(content) :])
    return digest.hexdigest()
