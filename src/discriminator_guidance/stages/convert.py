"""Released checkpoints as the weights that stages load: safetensors, with constructor arguments as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from discriminator_guidance.artifacts.adm_checkpoint import check_fit, derive_arguments, read_adm_checkpoint
from discriminator_guidance.artifacts.edm_pickle import read_edm_pickle
from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.artifacts.inert_pickle import printable
from discriminator_guidance.artifacts.weights import save_weights
from discriminator_guidance.errors import InputError, OutputError, UserError
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.stages.fitting import outline

Weights = tuple[dict[str, Tensor], dict[str, Any]]


def read_edm(path: Path) -> Weights:
    """Read an EDM checkpoint without executing anything in it.

    Args:
        path: of the `.pkl`.

    Returns:
        Tensors by name, and EDMPrecond's arguments.

    Raises:
        InputError: the two do not fit each other.
    """
    state, arguments = read_edm_pickle(path)
    _check(EDMPrecond, state, arguments, f"an EDM checkpoint in {path}")
    return state, arguments


def read_adm(path: Path, num_head_channels: int = 64) -> Weights:
    """Read a classifier or discriminator head without executing anything in it.

    Args:
        path: of the `.pt`.
        num_head_channels: channels an attention head, which shapes do not tell.

    Returns:
        Tensors by name, and EncoderUNet's arguments.

    Raises:
        InputError: the two do not fit each other.
    """
    what = f"a state dict in {path}"
    state = read_adm_checkpoint(path)
    arguments = derive_arguments(state, what, num_head_channels)
    _check(EncoderUNet, state, arguments, what)
    return state, arguments


def read_inception(path: Path, digest: str | None) -> dict[str, Tensor]:
    """Read torch-fidelity's Inception.

    Args:
        path: of the `.pth`.
        digest: its sha256; None takes any file.

    Returns:
        Tensors by name.

    Raises:
        InputError: it is another file.
    """
    if digest is not None and (met := sha256(path)) != digest:
        raise InputError(f"sha256 {digest} of {path}", met, "get the file again, or mend fid_network.sha256")
    return read_adm_checkpoint(path)


def write(weights: Weights, folder: Path) -> dict[str, object]:
    """Write converted weights.

    Args:
        weights: tensors by name, and constructor arguments.
        folder: where; made if need be, and gone again if it cannot be filled.

    Returns:
        What to show: numbers of tensors and elements, and the folder.

    Raises:
        InputError: the folder cannot be written.
    """
    state, arguments = weights
    existed = folder.exists()
    try:
        save_weights(folder, state, arguments)
    except (OSError, OutputError) as error:
        if not existed and folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        reason = error.got if isinstance(error, OutputError) else str(error.strerror)
        raise InputError(f"a folder that can be written at {folder}", reason, "choose another") from error
    elements = sum(tensor.numel() for tensor in state.values())
    return {"tensors": len(state), "elements": elements, "folder": folder}


def _check(build: Callable[..., nn.Module], state: dict[str, Tensor], arguments: dict[str, Any], what: str) -> None:
    try:
        expected = outline(build, arguments, len(state))
    except (UserError, ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise InputError(what, f"no network for its arguments ({printable(error)})", "get the file again") from error
    check_fit(expected, state, what)
