"""NVIDIA's EDM checkpoints (`.pkl`), read without executing anything that they hold."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.artifacts.inert_pickle import (
    ORDERED_DICT,
    REMEDY,
    Global,
    Record,
    printable,
    read_content,
    read_inert,
)
from discriminator_guidance.artifacts.torch_stream import (
    REBUILD_TENSOR,
    check_view,
    load_storage,
    tensor_arguments,
)
from discriminator_guidance.errors import InputError

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
PARAMETER = "torch._utils._rebuild_parameter"
STORAGE = "torch.storage._load_from_bytes"
MODULE_DICT = "torch.nn.modules.container.ModuleDict"
SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # numpy 2 and numpy 1
DTYPE = "numpy.dtype"
ALLOWED = frozenset(
    {PERSISTENT, PARAMETER, STORAGE, MODULE_DICT, *SCALARS, DTYPE, ORDERED_DICT, REBUILD_TENSOR},
)
PERSISTENCE_VERSION = 6
MAX_DEPTH, MAX_PARTS = 16, 10_000

# The constructor of the original takes these by position.
POSITIONS = (
    "img_resolution",
    "img_channels",
    "label_dim",
    "use_fp16",
    "sigma_min",
    "sigma_max",
    "sigma_data",
    "model_type",
)
TRAINING_ONLY = ("use_fp16", "label_dropout")
LARGEST = {
    "img_resolution": 1024,
    "img_channels": 64,
    "label_dim": 100_000,
    "augment_dim": 64,
    "model_channels": 2048,
    "channel_mult": 64,
    "channel_mult_emb": 64,
    "num_blocks": 32,
    "attn_resolutions": 1024,
    "channel_mult_noise": 64,
    "resample_filter": 1024,
}
WORDS = ("embedding_type", "encoder_type", "decoder_type")
NUMBERS = ("sigma_min", "sigma_max", "sigma_data", "dropout")
MAX_LIST = 12


def read_edm_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the averaged network of an EDM checkpoint.

    Args:
        path: `edm-cifar10-32x32-{uncond,cond}-{vp,ve}.pkl`, or a file laid out like it.

    Returns:
        Parameters and buffers by their original names (`model....`), on the CPU, and JSON-able constructor
        arguments of `networks.edm.EDMPrecond`.

    Raises:
        InputError: it is missing, damaged, names a class or function that such files do not hold, or holds
            another network.
    """
    what = f"an EDM checkpoint in {path}"
    content = read_content(path, what)
    data = read_inert(io.BytesIO(content), ALLOWED, what)
    try:
        network = _persistent(_mapping(data, "the file").get("ema"), "EDMPrecond")
        arguments = _constructor_arguments(network)
        state = dict(_Tensors(what, len(content)).walk(network, "", 0))
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise InputError(what, f"another layout: {printable(error)}", REMEDY) from error
    return state, arguments


class _Tensors:
    """Rebuilds the tensors of a module record, none of them larger than the file all together."""

    def __init__(self, what: str, file_bytes: int) -> None:
        self.what, self.parts_left = what, MAX_PARTS
        self.bytes_left = self.storage_bytes_left = file_bytes
        self.storages: dict[int, Tensor] = {}

    def walk(self, module: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        """The parameters and buffers of a module and those below it, by name."""
        if depth > MAX_DEPTH:
            raise ValueError(f"modules nested deeper than {MAX_DEPTH}")
        for name, record in _entry(module, "_parameters").items():
            if record is not None:
                yield prefix + _name(name), self._tensor(_arguments(record, PARAMETER)[0])
        fleeting = module.get("_non_persistent_buffers_set") or ()
        for name, record in _entry(module, "_buffers").items():
            if record is not None and name not in fleeting:
                yield prefix + _name(name), self._tensor(record)
        for name, record in _entry(module, "_modules").items():
            if record is not None:
                self._spend(0)
                child = _module_dict(record) if _is_module_dict(record) else _persistent(record)
                yield from self.walk(child, f"{prefix}{_name(name)}.", depth + 1)

    def _spend(self, count: int) -> None:
        self.parts_left -= 1
        self.bytes_left -= count
        if self.parts_left < 0 or self.bytes_left < 0:
            raise ValueError("tensors that are larger or more than the file can hold")

    def _tensor(self, record: Any) -> Tensor:
        _arguments(record, REBUILD_TENSOR)
        storage, offset, size, stride = tensor_arguments(record)
        flat = self._storage(storage)
        check_view(flat.numel(), offset, size, stride)
        self._spend(math.prod(size) * flat.element_size())
        return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)

    def _storage(self, record: Any) -> Tensor:
        (content,) = _arguments(record, STORAGE)
        if type(content) is not bytes:
            raise ValueError("a storage that is no bytes")
        if id(record) not in self.storages:
            self.storage_bytes_left -= len(content)
            if self.storage_bytes_left < 0:
                raise ValueError("storages that are larger than the file")
            self.storages[id(record)] = load_storage(content, self.what)
        return self.storages[id(record)]


def _constructor_arguments(network: Mapping[Any, Any]) -> dict[str, Any]:
    """The arguments that made the original, as EDMPrecond takes them."""
    positional, named = network.get("_init_args", ()), network.get("_init_kwargs", {})
    if type(positional) not in (tuple, list) or len(positional) > len(POSITIONS):
        raise ValueError("constructor arguments of unknown layout")
    given = {**dict(zip(POSITIONS, positional, strict=False)), **_mapping(named, "_init_kwargs")}
    # The original's own default is another network.
    if given.pop("model_type", "DhariwalUNet") != "SongUNet":
        raise ValueError("a network other than SongUNet")
    arguments = {_name(key): _argument(key, _plain(value)) for key, value in given.items() if key not in TRAINING_ONLY}
    if not {"img_resolution", "img_channels"} <= set(arguments):
        raise ValueError("no img_resolution or img_channels")
    # Infinity has no place in JSON, and it is the default.
    if arguments.get("sigma_max") == math.inf:
        del arguments["sigma_max"]
    return arguments


def _argument(name: str, value: Any) -> Any:
    if name in WORDS and type(value) is str:
        return value
    if (
        name in NUMBERS
        and type(value) in (int, float)
        and (0 <= value < math.inf or (name, value) == ("sigma_max", math.inf))
    ):
        return float(value)
    values = value if type(value) is list else [value]
    bound = LARGEST.get(name, -1)
    if len(values) <= MAX_LIST and all(type(each) is int and 0 <= each <= bound for each in values):
        return value
    raise ValueError(f"the constructor argument {printable(name)} = {printable(value)}")


def _plain(value: Any) -> Any:
    """A constructor argument with numpy scalars as Python numbers and tuples as lists."""
    if type(value) in (list, tuple):
        return [_scalar(each) for each in value[: MAX_LIST + 1]]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if type(value) is not Record:
        return value if type(value) in (bool, int, float, str, type(None)) else type(value).__name__
    if value.callee not in SCALARS or len(value.arguments) != 2:
        raise ValueError(f"a call of {value.callee} as a constructor argument")
    dtype, content = value.arguments
    code, order = _arguments(dtype, DTYPE)[0], (dtype.state or (3, "|"))[1]
    # Only numbers: a dtype of objects would take addresses from the file.
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1") or order not in "<>|=":
        raise ValueError(f"a numpy scalar of type {printable(code)}")
    kind = np.dtype(order + code)
    if type(content) is not bytes or len(content) != kind.itemsize:
        raise ValueError("a numpy scalar of the wrong length")
    return np.frombuffer(content, kind)[0].item()


def _persistent(record: Any, class_name: str | None = None) -> Mapping[Any, Any]:
    """The state of an object whose class travels as source text; that text is left alone."""
    (told,) = _arguments(record, PERSISTENT)
    told = _mapping(told, "a persistent object")
    if told.get("type") != "class" or told.get("version") != PERSISTENCE_VERSION:
        raise ValueError(
            f"a persistent object of type {_scalar(told.get('type'))}, version {_scalar(told.get('version'))}"
        )
    if class_name is not None and told.get("class_name") != class_name:
        raise ValueError(f"the class {_scalar(told.get('class_name'))}, not {class_name}")
    return _entry(told, "state")


def _is_module_dict(record: Any) -> bool:
    return type(record) is Record and record.callee == MODULE_DICT


def _module_dict(record: Any) -> Mapping[Any, Any]:
    if record.arguments:
        raise ValueError("a ModuleDict with arguments")
    return _mapping(record.state, "a ModuleDict")


def _arguments(record: Any, callee: str) -> tuple[Any, ...]:
    if type(record) is not Record or record.callee != callee or not record.arguments:
        met = record.callee if type(record) is Record else type(record).__name__
        raise ValueError(f"{met} where {callee} belongs")
    return record.arguments


def _entry(mapping: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    return _mapping(mapping.get(key), key)


def _mapping(value: Any, name: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {'class' if type(value) is Global else type(value).__name__}, no dictionary")
    return value


def _name(name: Any) -> str:
    if type(name) is not str:
        raise ValueError(f"a name that is a {type(name).__name__}")
    return name
