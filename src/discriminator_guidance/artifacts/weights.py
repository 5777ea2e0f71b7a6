"""Weights as safetensors, with the constructor arguments of their network beside them as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from discriminator_guidance.artifacts.files import read_json, require, write_bytes, write_json
from discriminator_guidance.errors import InputError

WEIGHT_FILES = ("model.safetensors", "model.json")


def save_weights(folder: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `model.json`.

    Args:
        folder: where.
        state: tensors by their original names.
        arguments: constructor arguments of the network.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(folder / "model.safetensors", save(tensors))
    write_json(folder / "model.json", arguments)


def load_weights(folder: Path, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote.

    Args:
        folder: where.
        stage: the stage that makes it, for the remedy.

    Returns:
        Tensors by name, and the constructor arguments.

    Raises:
        InputError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / "model.safetensors"
    require(path, stage)
    arguments = read_json(folder / "model.json", stage)
    try:
        return load(path.read_bytes()), arguments
    except SafetensorError as error:
        raise InputError(f"whole weights in {path}", str(error), f"run stage {stage} again") from error
