"""A device that computes on the CPU and, as a GPU does, refuses to mix its tensors with those of the CPU."""

from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("remote")
torch.remote.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
DEVICE, CPU, aten = torch.device("remote", 0), torch.device("cpu"), torch.ops.aten
MIXED = (aten._to_copy, aten.copy_, aten._copy_from)


class Remote(torch.Tensor):
    """A tensor of the device, which holds one of the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Any:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        remote = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=DEVICE)  # type: ignore[attr-defined]
        remote.held = held
        return remote

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(operator, *args, **kwargs or {})

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec)

    def tolist(self) -> Any:
        return self.held.tolist()


def call(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operator returns, with the tensors that the device holds."""
    values, structure = tree_flatten((args, kwargs))
    remote = {id(value.held): value for value in values if isinstance(value, Remote)}
    local = [value for value in values if isinstance(value, torch.Tensor) and not isinstance(value, Remote)]
    kind = operator.overloadpacket
    if remote and kind not in MIXED and any(value.dim() for value in local):
        assert kind in (aten.index, aten.index_put_), f"{operator} mixes devices"
        assert isinstance(args[0], Remote), "indices of the device, and a tensor of the CPU"
    devices = [value for value in values if isinstance(value, torch.device)]
    kept = devices[0] == DEVICE if devices else isinstance(args[0], Remote) if kind is aten.copy_ else bool(remote)
    held = {torch.device: lambda _: CPU, Remote: lambda value: value.held}
    args, kwargs = tree_unflatten([held.get(type(value), lambda value: value)(value) for value in values], structure)
    result = args[1].copy_(args[0]) if kind is aten._copy_from else operator(*args, **kwargs)
    wrap = lambda value: remote[id(value)] if id(value) in remote else Remote(value) if kept else value  # noqa: E731
    return tree_map_only(torch.Tensor, wrap, result)


LIBRARIES = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
LIBRARIES[0].fallback(call, "PrivateUse1")
for operator in (aten.empty.memory_format, aten.empty_strided.default, aten._copy_from.default):
    LIBRARIES[1].impl(operator, partial(call, operator), "PrivateUse1")
