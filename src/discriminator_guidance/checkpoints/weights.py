"""Weights as safetensors with the constructor arguments of their network beside them, and networks made of both."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from discriminator_guidance.errors import InputError, UserError
from discriminator_guidance.files import read_json, reason, require, write_bytes, write_json

WEIGHT_FILES = ("model.safetensors", "config.json")
AS_PUBLISHED = "use the file as its authors published it"
Network = TypeVar("Network", bound=nn.Module)


def save_weights(folder: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
    """Write `model.safetensors` (tensors by their original names) and `config.json` (constructor arguments)."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(folder / "model.safetensors", save(tensors))
    write_json(folder / "config.json", arguments)


def load_weights(folder: Path, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and constructor arguments, as `save_weights` wrote them."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    require(path, stage)
    arguments = read_json(folder / "config.json", stage)
    try:
        return load_file(path), arguments
    except Exception as error:  # safetensors and torch raise several types on damaged files
        raise InputError(f"complete weights in {path}", reason(error), f"run stage {stage} again") from error


def load_torch(file: Path | BytesIO) -> Any:
    """The content of a file by `torch.save`, on the CPU, if it has only tensors and plain containers."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch wraps what it met in advice to load the file all the same.
        raise ValueError(str(error.__context__ or error).partition(" Please")[0]) from error


def load_network(build: Callable[..., Network], folder: Path, stage: str) -> Network:
    """The network of which a stage wrote the arguments and the weights."""
    state, arguments = load_weights(folder, stage)
    return fit_network(build, arguments, state, "weights that fit their config.json", f"run stage {stage} again")


def fit_network(
    build: Callable[..., Network], arguments: Mapping[str, Any], state: Mapping[str, Tensor], what: str, remedy: str
) -> Network:
    """A network with weights that fit it; arguments from a file are followed only as far as its tensors reach."""
    try:
        with _at_most(sum(tensor.numel() for tensor in state.values())):
            network = build(**arguments)
        network.load_state_dict(state)
    except UserError as error:
        raise InputError(what, f"{error.got}, not {error.expected}", remedy) from error
    except Exception as error:  # constructors raise anything on arguments that are not their own
        raise InputError(what, reason(error), remedy) from error
    return network


@contextmanager
def _at_most(elements: int) -> Iterator[None]:
    """Stop the construction of a network with more parameters."""
    left = elements

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= parameter.numel()
        if left < 0:
            raise ValueError(f"a network of more than the {elements:,} numbers in the file")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
