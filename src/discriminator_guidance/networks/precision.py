"""The device and the floating-point format in which networks run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from discriminator_guidance import distributed
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.cpu import tune_malloc

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """A device and the format of inner products: "float32", "tf32" (CUDA) or "bfloat16" (autocast).

    Parameters in training, preconditioning and the sampler's state keep full precision.
    """

    device: torch.device
    mode: str

    def autocast(self) -> torch.autocast:
        """A context manager for calls in this format; without bfloat16 it does nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mode == "bfloat16")

    def called(self, network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """A network, or a part of one, that is called in this format."""

        def call(*given: Any, **named: Any) -> torch.Tensor:
            with self.autocast():
                return network(*given, **named)

        return call

    def record(self) -> dict[str, str]:
        """The name of the GPU under "device"; empty on a CPU."""
        return {"device": torch.cuda.get_device_name(self.device)} if self.device.type == "cuda" else {}

    def place(self, network: Network) -> Network:
        """Freeze a network on the device, in evaluation mode, to be called under `autocast`."""
        network = network.to(self.device).eval().requires_grad_(False)
        if self.mode == "bfloat16":  # autocast would convert frozen kernels again in every call
            for layer in network.modules():
                if isinstance(layer, nn.Conv1d | nn.Conv2d):
                    layer.to(torch.bfloat16).register_forward_pre_hook(_in_format_of_kernel)
        return network


def prepare(device: str, precision: str, threads: int) -> Compute:
    """Set this process up for `runtime.device`, a precision and a number of CPU threads.

    "auto" is cuda where there is one, and bfloat16 where the device has it natively.
    """
    torch.set_num_threads(threads)
    tune_malloc()
    here = torch.cuda.is_available()
    kind = ("cuda" if here else "cpu") if device == "auto" else device
    if kind == "cuda" and not here:
        raise ConfigError("a CUDA device, as runtime.device says", "none", "choose runtime.device: auto or cpu")
    if precision == "tf32" and kind != "cuda":
        raise ConfigError("runtime precision tf32 on a CUDA device", f"device {kind}", "choose float32 or auto")
    if precision == "auto":
        native = torch.cuda.is_bf16_supported(False) if kind == "cuda" else torch.cpu._is_avx512_bf16_supported()
        precision = "bfloat16" if native else "float32"
    allow_tf32(precision == "tf32")
    torch.backends.cudnn.deterministic = True  # what is left to differ is the order of some atomic sums
    return Compute(
        _gpu_of_process() if kind == "cuda" and "LOCAL_RANK" in os.environ else torch.device(kind), precision
    )


def allow_tf32(allowed: bool) -> None:
    """Let CUDA round the factors of float32 inner products to 10 bits, or forbid it; torch's own default is mixed."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _gpu_of_process() -> torch.device:
    """The GPU of this process of torchrun, also where it works apart from the others."""
    index, count = distributed.local_rank(), torch.cuda.device_count()
    if index >= count:
        raise ConfigError("a GPU for each process", f"{count} of them and process {index}", f"start {count} processes")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _in_format_of_kernel(layer: nn.Module, given: tuple[torch.Tensor]) -> torch.Tensor:
    return given[0].to(layer.weight.dtype)  # type: ignore[arg-type]
