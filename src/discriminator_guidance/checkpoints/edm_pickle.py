"""NVIDIA's EDM checkpoints (`.pkl`), read without executing anything that they hold."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.checkpoints.weights import AS_PUBLISHED, fit_network, load_torch
from discriminator_guidance.data.files import reason
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.edm import EDMPrecond

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
PARAMETER = "torch._utils._rebuild_parameter"
TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
MODULE_DICT = "torch.nn.modules.container.ModuleDict"
SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # numpy 2 and numpy 1
DTYPE = "numpy.dtype"
ALLOWED = frozenset({PERSISTENT, PARAMETER, TENSOR, STORAGE, MODULE_DICT, *SCALARS, DTYPE})
PERSISTENCE_VERSION = 6
# Instructions that such files do not hold: Python's own unpickler would take names from elsewhere, or memory by number.
REFUSED = ("EXT1", "EXT2", "EXT4", "PUT", "LONG_BINPUT")
MAX_TUPLES = 50_000  # deeply nested ones would overflow the stack; the released files have about 5,000
MODULE_BYTES = 100  # of the file, at least, for a module
# The constructor of the original takes these by position.
POSITIONS = (
    "img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_min", "sigma_max", "sigma_data", "model_type",
)  # fmt: skip
TRAINING_ONLY = ("use_fp16", "label_dropout", "model_type")


def read_edm_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the averaged network by their original names, and the arguments of `networks.edm.EDMPrecond`."""
    try:
        content = path.read_bytes()
        network = _module(_load(content)["ema"], "EDMPrecond")
        return dict(_Tensors(len(content)).walk(network)), _constructor_arguments(network)
    except Exception as error:  # damaged and hostile pickles raise some dozen types
        raise InputError(f"an EDM checkpoint in {path}", reason(error), AS_PUBLISHED) from error


def read_edm(path: Path) -> tuple[EDMPrecond, dict[str, Any]]:
    """The averaged network of an EDM checkpoint, and its arguments."""
    state, arguments = read_edm_pickle(path)
    return fit_network(EDMPrecond, arguments, state, f"an EDM checkpoint in {path}", AS_PUBLISHED), arguments


class Call:
    """A call or an object that a pickle asks for: its arguments and state are kept, it is never made."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> Call:
        """Keep the arguments."""
        call = super().__new__(cls)
        call.arguments = arguments
        return call

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """A stand-in for an allowed class or function; the real one is never looked up."""
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if full not in ALLOWED:
            raise pickle.UnpicklingError(f"a pickle that names {full}, which is refused")
        return type(full, (Call,), {"name": full})


def _load(content: bytes) -> Any:
    found = Counter(opcode.name for opcode, _, _ in pickletools.genops(content))  # also: all that is declared is there
    if odd := [name for name in REFUSED if found[name]]:
        raise ValueError(f"the instruction {odd[0]}, which such files do not hold")
    if sum(count for name, count in found.items() if name.startswith("TUPLE")) > MAX_TUPLES:
        raise ValueError(f"more than {MAX_TUPLES} tuples")
    return _Unpickler(io.BytesIO(content)).load()


class _Tensors:
    """Makes the tensors of a module, none of them larger than the file all together."""

    def __init__(self, file_bytes: int) -> None:
        self.bytes_left = file_bytes
        self.storages: dict[int, Tensor] = {}

    def walk(self, module: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        self._spend(MODULE_BYTES)
        for name, record in module["_parameters"].items():
            if record is not None:
                yield prefix + name, self._tensor(_arguments(record, PARAMETER)[0])
        for name, record in module["_buffers"].items():
            if record is not None and name not in module["_non_persistent_buffers_set"]:
                yield prefix + name, self._tensor(record)
        for name, record in module["_modules"].items():
            if record is not None:
                yield from self.walk(_module(record), f"{prefix}{name}.")

    def _spend(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise ValueError("more than the file can hold")

    def _tensor(self, record: Any) -> Tensor:
        storage, offset, size, stride, *_ = _arguments(record, TENSOR)
        if id(storage) not in self.storages:
            (content,) = _arguments(storage, STORAGE)
            held = load_torch(io.BytesIO(content))
            self.storages[id(storage)] = torch.empty(0, dtype=held.dtype).set_(held)
        flat = self.storages[id(storage)]
        if math.prod(size) > flat.numel():
            raise ValueError(f"a tensor of shape {size} in a storage of {flat.numel()} elements")
        self._spend(math.prod(size) * flat.element_size())
        return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def _module(record: Any, class_name: str | None = None) -> Mapping[str, Any]:
    """The attributes of a module; the source text of its class, which travels with it, is left alone."""
    if isinstance(record, Call) and record.name == MODULE_DICT:
        attributes: Mapping[str, Any] = record.state
        return attributes
    (made,) = _arguments(record, PERSISTENT)
    kind = (made["type"], made["version"], made["class_name"])
    if kind != ("class", PERSISTENCE_VERSION, class_name or made["class_name"]):
        raise ValueError(f"a persistent object of type {kind[0]}, version {kind[1]}, class {kind[2]}")
    attributes = made["state"]
    return attributes


def _arguments(record: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(record, Call) or record.name != name:
        raise ValueError(f"{getattr(record, 'name', type(record).__name__)} where {name} belongs")
    return record.arguments


def _constructor_arguments(network: Mapping[str, Any]) -> dict[str, Any]:
    given = {**dict(zip(POSITIONS, network["_init_args"], strict=False)), **network["_init_kwargs"]}
    if given.get("model_type") != "SongUNet":  # the original's own default is another network
        raise ValueError("a network other than SongUNet")
    if given.get("sigma_max") == math.inf:  # the default, and infinity has no place in JSON
        del given["sigma_max"]
    return {name: _plain(value) for name, value in given.items() if name not in TRAINING_ONLY}


def _plain(value: Any) -> Any:
    """A constructor argument with numpy scalars as Python numbers and tuples as lists."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Call) and value.name in SCALARS:
        dtype, content = value.arguments
        # Numbers only: a dtype of objects would take addresses from the file.
        kind = np.dtype(dtype.state[1] + _arguments(dtype, DTYPE)[0])
        if kind.kind not in "biuf":
            raise ValueError(f"a numpy scalar of type {kind}")
        value = np.frombuffer(content, kind)[0].item()
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"a constructor argument {value if isinstance(value, float) else type(value).__name__}")
