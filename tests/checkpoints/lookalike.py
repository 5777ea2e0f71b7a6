"""Files laid out like EDM's checkpoints, honest and hostile, under the official names of classes they hold."""

import io
import pickle
import struct
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from discriminator_guidance.networks.edm import EDMPrecond

SCALAR_NEW, SCALAR_OLD = "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"  # numpy 2 and numpy 1
DDPMPP = {"img_resolution": 8, "img_channels": 3, "label_dim": 0, "model_channels": 8, "channel_mult": [1, 2]}
DDPMPP |= {"num_blocks": 1, "attn_resolutions": [4], "augment_dim": 9}
NCSNPP = {**DDPMPP, "label_dim": 10, "embedding_type": "fourier", "encoder_type": "residual"}
NCSNPP |= {"decoder_type": "standard", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
TINY = {**DDPMPP, "img_resolution": 2, "img_channels": 1, "model_channels": 4, "channel_mult": [1]}


@dataclass(eq=False)
class Call:
    """A call, pickled without being made."""

    callee: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(eq=False)
class Raw:
    """Instructions that go into the pickle as they are."""

    instructions: bytes


class Writer(pickle._Pickler):
    """Python's own pickler, which also writes Call and Raw."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Raw):
            self.write(obj.instructions)
        elif isinstance(obj, Call) and (known := self.memo.get(id(obj))) is not None:
            self.write(self.get(known[0]))
        elif isinstance(obj, Call):
            module, _, name = obj.callee.rpartition(".")
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            self.memoize(obj)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def dumps(value: Any, protocol: int = 4) -> bytes:
    """A pickle of a value with Call and Raw in it."""
    stream = io.BytesIO()
    Writer(stream, protocol).dump(value)
    return stream.getvalue()


def storage_bytes(tensor: Tensor) -> bytes:
    """A tensor's storage as the checkpoints hold it."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tensor.storage(), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def parameter(storage: Any, offset: Any, size: Any, stride: Any) -> Call:
    """What rebuilds a parameter from the bytes of its storage, or from the call that loads them."""
    if not isinstance(storage, Call):
        storage = Call("torch.storage._load_from_bytes", (storage,))
    tensor = Call("torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, False, OrderedDict()))
    return Call("torch._utils._rebuild_parameter", (tensor, False, OrderedDict()))


def scalar_call(value: float, name: str = SCALAR_NEW, code: str = "f8") -> Call:
    """What rebuilds a numpy number."""
    dtype = Call("numpy.dtype", (code, False, True), (3, "<", None, None, None, -1, -1, 0))
    return Call(name, (dtype, struct.pack("<d", value)))


def persistent(class_name: str, state: dict[str, Any], module_src: str) -> Call:
    """An object with the source text of its class."""
    made = {"type": "class", "version": 6, "module_src": module_src, "class_name": class_name, "state": state}
    return Call("torch_utils.persistence._reconstruct_persistent_obj", (made,))


def module_call(module: nn.Module, module_src: str, **more: Any) -> Any:
    """A module and those below it as EDM stores them."""

    def below(child: nn.Module | None) -> Any:
        # Where the original has no skip connection it has None.
        return None if child is None or isinstance(child, nn.Identity) else module_call(child, module_src)

    state = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(module._non_persistent_buffers_set),
        "_backward_hooks": OrderedDict(),
        "_is_full_backward_hook": None,
        "_modules": OrderedDict((name, below(child)) for name, child in module._modules.items()),
        **more,
    }
    if not isinstance(module, nn.ModuleDict):
        return persistent(type(module).__name__, state, module_src)
    modules = nn.ModuleDict()
    modules.__dict__.update(state)
    return modules


def network(arguments: dict[str, Any]) -> EDMPrecond:
    """A small network, every tensor of it random."""
    made = EDMPrecond(**arguments)
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if "resample_filter" not in name:
                tensor.copy_(0.2 * torch.randn_like(tensor))
    return made.eval()


def checkpoint(made: EDMPrecond, arguments: dict[str, Any], canary: Path, scalar: str = SCALAR_NEW) -> dict[str, Any]:
    """The dictionary of an EDM checkpoint whose embedded source text leaves a canary if it is executed."""
    source = f"open({str(canary)!r}, 'w').close()\nraise SystemExit('module_src was executed')\n"
    init = {**arguments, "use_fp16": False, "model_type": "SongUNet", "dropout": 0.13}
    init["sigma_data"] = scalar_call(0.5, scalar)
    return {
        "ema": module_call(made, source, _init_args=(), _init_kwargs=init),
        "loss_fn": persistent("EDMLoss", {"P_mean": -1.2, "_init_args": (), "_init_kwargs": {}}, source),
        "augment_pipe": persistent("AugmentPipe", {"p": 0.12, "_init_args": (), "_init_kwargs": {"p": 0.12}}, source),
        "dataset_kwargs": {"path": "cifar10-32x32.zip", "use_labels": False, "max_size": 50000},
    }
