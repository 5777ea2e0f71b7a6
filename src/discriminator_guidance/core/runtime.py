"""The device, the number format and the processes of torchrun that compute, and a line that shows how far they are."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from inspect import unwrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from discriminator_guidance.core.errors import ConfigError

if TYPE_CHECKING:  # commands that compute nothing start without torch
    import torch
    from torch import Tensor, nn

Network = TypeVar("Network", bound="nn.Module")
Value = TypeVar("Value")

# Parameters of mallopt(3): no mmap for large blocks, and freed memory stays with the process.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}


def tune_malloc(parameters: Mapping[int, int] = KEPT) -> None:
    """Keep freed memory for the next layer: glibc hands large blocks back to the kernel, which zeroes them again."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries need no such switch
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in parameters.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)  # what is free by now


def innermost(function: Any) -> Any:
    """The callable below functools.partial or a wrapper of several GPUs, or the object that a method is of."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__self__", function)
    return function.module if type(function).__name__ in ("DataParallel", "DistributedDataParallel") else function


def attribute_of(function: Any, name: str, default: Any) -> Any:
    """An attribute of a callable, or of what it wraps by functools.wraps, which copies none of a class."""
    return getattr(inner := innermost(function), name, getattr(innermost(unwrap(inner)), name, default))


def warn_in_training(name: str, *functions: Callable[..., Any]) -> None:
    """Warn where a network that is only called would drop units out, or change its statistics."""
    modules = [module for module in map(innermost, functions) if hasattr(module, "modules")]
    if any(layer.training and not [*layer.children()] for module in modules for layer in module.modules()):
        warnings.warn(f"{name} is in training mode: call its .eval() before", stacklevel=4)


class Compute(NamedTuple):
    """A device and the format of inner products: "float32", "tf32" (CUDA) or "bfloat16" (autocast).

    Parameters in training, preconditioning and the sampler's state keep full precision.
    """

    device: torch.device
    mode: str

    def autocast(self) -> torch.autocast:
        """A context manager or decorator for calls in this format; without bfloat16 it does nothing."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mode == "bfloat16")

    def place(self, network: Network) -> Network:
        """Freeze a network on the device, in evaluation mode, to be called under `autocast`."""
        import torch

        network = network.to(self.device).eval().requires_grad_(False)
        if self.mode == "bfloat16":  # autocast would convert frozen kernels again in every call
            for layer in network.modules():
                if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d):
                    layer.to(torch.bfloat16).register_forward_pre_hook(lambda _, inputs: inputs[0].to(torch.bfloat16))
        return network


def prepare(device: str, precision: str, threads: int) -> Compute:
    """Set this process up for `runtime.device`, "auto" being cuda where there is one, a precision and CPU threads."""
    import torch

    torch.set_num_threads(threads)
    tune_malloc()
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    torch.backends.cudnn.deterministic = True  # what is left to differ is the order of some atomic sums
    allow_tf32(False)
    return compute_on(usable(kind), precision)


def compute_on(device: torch.device, precision: str) -> Compute:
    """A device with a precision: "auto" is bfloat16 where it has that natively; "tf32" is allowed in this process."""
    import torch

    kind = device.type
    if precision == "tf32":
        if kind != "cuda":
            raise ConfigError(f"the precision is tf32, and device {kind} is not CUDA", "choose float32 or auto")
        allow_tf32(True)
    if precision == "auto":
        on_cpu = kind == "cpu" and torch.cpu._is_avx512_bf16_supported()
        native = torch.cuda.is_bf16_supported(False) if kind == "cuda" else on_cpu
        precision = "bfloat16" if native else "float32"
    return Compute(device, precision)


def usable(device: torch.device | str) -> torch.device:
    """The device, if this machine has it."""
    import torch

    if str(device) == "cuda" and "LOCAL_RANK" in os.environ:  # of torchrun, also where a process works apart
        index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if index >= count:
            raise ConfigError(f"torchrun started {index + 1} processes or more for {count} GPUs", f"start {count}")
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        allowed = " or ".join(name for name, found in there.items() if found)
        raise ConfigError(f"this machine has no device {str(device)!r}", f"choose {allowed}") from error


def allow_tf32(allowed: bool) -> None:
    """Let CUDA round the factors of float32 inner products to 10 bits, or forbid it; torch's own default is mixed."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


_ALONE = ContextVar("alone", default=False)


@contextlib.contextmanager
def alone(apart: bool = True) -> Iterator[None]:
    """Inside, this process of torchrun computes as if it were the only one; with False, as one of all."""
    token = _ALONE.set(apart)
    try:
        yield
    finally:
        _ALONE.reset(token)


def rank() -> int:
    """This process's number, from 0."""
    return 0 if _ALONE.get() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes that share the work."""
    return 1 if _ALONE.get() else int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes, tracks and reports."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        _group().barrier()


def broadcast(value: Value) -> Value:
    """The value that the first process has."""
    if world_size() == 1:
        return value
    values: list[Value] = [value]
    _group().broadcast_object_list(values, src=0)
    return values[0]


def add_up(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over the processes."""
    if world_size() > 1:
        for tensor in tensors:
            _group().all_reduce(tensor)


def share(count: int) -> range:
    """This process's contiguous part of a number of rows."""
    return range(count * rank() // world_size(), count * (rank() + 1) // world_size())


def gather_rows(part: Tensor) -> Tensor:
    """All rows, each process having its `share`."""
    if world_size() == 1:
        return part
    import torch

    parts: list[Any] = [None] * world_size()
    _group().all_gather_object(parts, part.cpu())
    return torch.cat(parts).to(part.device)


def _group() -> Any:
    import torch

    if not torch.distributed.is_initialized():
        # The others wait while the first process computes metrics alone. NCCL refuses tensors of the CPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(hours=12))
    return torch.distributed


EVERY_S = {True: 0.2, False: 10.0}  # between two lines, on a terminal and elsewhere


@contextlib.contextmanager
def progress(description: str, total: int, unit: str, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show on standard error how far work is; yields what takes the units just done, or with `to` all so far."""
    terminal, shown = sys.stderr.isatty(), shown and is_first() and os.environ.get("LOCAL_RANK", "0") == "0"
    done, called_at, printed_at = 0, 0.0, 0.0

    def advance(count: int = 0, to: int | None = None) -> None:
        nonlocal done, called_at, printed_at
        before, since, now = done, called_at, time.monotonic()
        done, called_at = done + count if to is None else to, now
        if not shown or (now - printed_at < EVERY_S[terminal] and done < total):
            return
        printed_at, text = now, f"{description}: {done}/{total} {unit}"
        if since and before < done < total:  # by the pace of the last call: an earlier run may have done those before
            text += f", {(now - since) / (done - before) * (total - done):.0f} s left"
        print(f"\r{text:<78}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        if terminal and printed_at:
            print(file=sys.stderr)
