"""NVIDIA's EDM checkpoints (`.pkl`), read without executing anything that they hold."""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.core.files import AS_PUBLISHED, damage_refused, fit_network, load_torch, regular
from discriminator_guidance.networks.edm import EDMPrecond

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
PARAMETER = "torch._utils._rebuild_parameter"
TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
MODULE_DICT = "torch.nn.modules.container.ModuleDict"
SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # numpy 2 and numpy 1
DTYPE = "numpy.dtype"
ALLOWED = {PERSISTENT, PARAMETER, TENSOR, STORAGE, MODULE_DICT, *SCALARS, DTYPE, "collections.OrderedDict"}
PERSISTENCE_VERSION = 6
MODULE_BYTES = 100  # of the file, at least, for a module
# The constructor of the original takes these by position.
POSITIONS = (
    "img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_min", "sigma_max", "sigma_data", "model_type",
)  # fmt: skip
TRAINING_ONLY = ("use_fp16", "label_dropout", "model_type")


class Call:
    """A call or an object that a pickle asks for: its arguments and state are kept, it is never made."""

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


class Unpickler(pickle._Unpickler):  # the one in Python: that in C reserves as much memory as a file asks for
    """Gives a `Call` for each class or function in `ALLOWED`, none of which is looked up; other names are errors."""

    def find_class(self, module: str, name: str) -> type:
        """A stand-in for an allowed class or function."""
        full = f"{module}.{name}"
        if full not in ALLOWED:
            raise pickle.UnpicklingError(f"its pickle names {full}, which is refused")
        return OrderedDict if full == "collections.OrderedDict" else type(full, (Call,), {"name": full})


def read_edm(path: Path) -> tuple[EDMPrecond, dict[str, Any]]:
    """The averaged network of an EDM checkpoint, and the arguments of its constructor."""
    problem = f"{path} is not an EDM checkpoint"
    with damage_refused(problem, AS_PUBLISHED):
        content = regular(path).read_bytes()
        network = _module(Unpickler(io.BytesIO(content)).load()["ema"], "EDMPrecond")
        state = _tensors(network, len(content))
        arguments = {**dict(zip(POSITIONS, network["_init_args"], strict=False)), **network["_init_kwargs"]}
        if arguments.get("model_type") != "SongUNet":  # the original's own default is another network
            raise ValueError("its network is no SongUNet")
        if arguments.get("sigma_max") == math.inf:  # the default, and infinity has no place in JSON
            del arguments["sigma_max"]
        arguments = {name: _plain(value) for name, value in arguments.items() if name not in TRAINING_ONLY}
    return fit_network(EDMPrecond, arguments, state, problem, AS_PUBLISHED), arguments


def _tensors(network: Mapping[str, Any], most: int) -> dict[str, Tensor]:
    """The tensors of a module and of those below it by name, if they fit into so many bytes."""
    tensors, modules, left = dict[str, Tensor](), [("", network)], most
    while modules:
        prefix, module = modules.pop()
        left -= MODULE_BYTES
        records = {name: _arguments(made, PARAMETER)[0] for name, made in module["_parameters"].items() if made}
        kept = module["_buffers"].keys() - module["_non_persistent_buffers_set"]
        records |= {name: module["_buffers"][name] for name in kept if module["_buffers"][name]}
        for name, record in records.items():
            storage, offset, size, stride, *_ = _arguments(record, TENSOR)
            flat = load_torch(io.BytesIO(*_arguments(storage, STORAGE)))
            left -= math.prod(size) * flat.dtype.itemsize
            if left < 0:
                raise ValueError("its tensors are larger than the file")
            storage = torch.empty(0, dtype=flat.dtype, device=flat.device).set_(flat)
            tensors[prefix + name] = storage.as_strided(size, stride, offset).clone().contiguous()
        modules += [(f"{prefix}{name}.", _module(below)) for name, below in module["_modules"].items() if below]
    return tensors


def _module(record: Any, class_name: str | None = None) -> Any:
    """The attributes of a module; the source text of its class, which travels with it, is left alone."""
    if isinstance(record, Call) and record.name == MODULE_DICT:
        return record.state
    (made,) = _arguments(record, PERSISTENT)
    kind = (made["type"], made["version"], made["class_name"])
    if kind != ("class", PERSISTENCE_VERSION, class_name or made["class_name"]):
        raise ValueError(f"it has a persistent object of type {kind[0]}, version {kind[1]}, class {kind[2]}")
    return made["state"]


def _arguments(record: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(record, Call) or record.name != name:
        raise ValueError(f"it has {getattr(record, 'name', type(record).__name__)} where {name} belongs")
    return record.arguments


def _plain(value: Any) -> Any:
    """A constructor argument with numpy scalars as Python numbers and tuples as lists."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Call) and value.name in SCALARS:
        dtype, content = value.arguments
        # Numbers only: a dtype of objects would take addresses from the file.
        kind = np.dtype(dtype.state[1] + _arguments(dtype, DTYPE)[0])
        if kind.kind not in "biuf":
            raise ValueError(f"it has a numpy scalar of type {kind}")
        value = np.frombuffer(content, kind)[0].item()
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"it has a constructor argument {value if isinstance(value, float) else type(value).__name__}")
