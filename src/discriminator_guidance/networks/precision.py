"""Where and in which floating-point format networks run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from discriminator_guidance import ranks
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.blocks import Conv2d

Network = TypeVar("Network", bound=nn.Module)

# Channels from which a network is faster with channels last in bfloat16. On a CPU the score network of CIFAR-10 (256)
# then takes 0.71 of the time and its extractor (512) 0.88; networks of 32 to 96 channels take 1.5 times as long. On a
# GPU, whose group norm makes its input contiguous, nothing was measured, and none has channels last.
WIDE = 192
NVIDIA_DRIVER = Path("/proc/driver/nvidia")


@dataclass(frozen=True)
class Compute:
    """A device and the format of the networks' inner products.

    Args:
        device: where networks and batches live.
        mode: "float32", "tf32" (CUDA: float32 with 10 bits of mantissa inside inner products), or "bfloat16" for
            autocast; parameters, preconditioning and sampler state keep full precision.
    """

    device: torch.device
    mode: str

    def autocast(self) -> torch.autocast:
        """Open the floating-point format of this mode for what runs inside.

        Returns:
            A context manager; without bfloat16 it does nothing.
        """
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mode == "bfloat16")

    def record(self) -> dict[str, str]:
        """What a result says of the device that made it.

        Returns:
            The name of the GPU under "device"; nothing on a CPU, whose results say no machine.
        """
        return {"device": torch.cuda.get_device_name(self.device)} if self.device.type == "cuda" else {}

    def place(self, network: Network, forward_only: bool = False) -> Network:
        """Make a network ready for many calls without training, under `autocast`.

        Args:
            network: changed in place.
            forward_only: whether no gradient by its input will be asked for.

        Returns:
            The same network on the device, in evaluation mode, without gradients. In mode "bfloat16" its kernels are
            bfloat16 already: autocast would convert those of a frozen network anew in every call, and does not act
            inside `vmap`. Kernels of wide networks lie with channels last on a CPU, in float32 where no gradient is
            asked for; there they multiply less, too.
        """
        network = network.to(self.device).eval().requires_grad_(False)
        rounded = self.mode == "bfloat16"
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d)]
        width = max((layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)), default=0)
        wide = width >= WIDE and self.device.type == "cpu"
        if wide and (rounded or forward_only):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        less = wide and forward_only and not (rounded and _has_matrix_units())
        for layer in layers:
            if less and isinstance(layer, Conv2d):
                layer.multiply_less(torch.bfloat16 if rounded else torch.float32)
            if rounded:
                layer.to(torch.bfloat16).register_forward_pre_hook(_in_format_of_kernel)
        return network


def resolve_compute(device: str, precision: str) -> Compute:
    """Turn settings into what this machine does.

    Args:
        device: "cpu", "cuda" or "auto" (cuda when there is one).
        precision: "float32", "tf32", "bfloat16" or "auto" (bfloat16 where the device has it natively).

    Returns:
        Device (of several ranks each has a GPU of its own) and mode; the mode is recorded with every result.

    Raises:
        ConfigError: CUDA is asked for and not here, or by more ranks than there are GPUs, or tf32 without CUDA.
    """
    here = torch.cuda.is_available()
    place = ("cuda" if here else "cpu") if device == "auto" else device
    if place == "cuda" and not here:
        raise ConfigError("a CUDA device, as runtime.device says", "none", "choose runtime.device: auto or cpu")
    if precision == "tf32" and place != "cuda":
        raise ConfigError("runtime precision tf32 on a CUDA device", f"device {place}", "choose float32 or auto")
    if precision == "auto":
        precision = "bfloat16" if _has_native_bfloat16(place) else "float32"
    return Compute(_gpu_of_rank() if place == "cuda" and ranks.world_size() > 1 else torch.device(place), precision)


def unused_gpu(device: str) -> str | None:
    """What to say where "auto" means the CPU although there may be a GPU.

    Args:
        device: "cpu", "cuda" or "auto".

    Returns:
        One line, or None where there is nothing to say.
    """
    if device != "auto" or torch.cuda.is_available() or not NVIDIA_DRIVER.exists():
        return None
    return f"an NVIDIA driver is here, but this PyTorch ({torch.__version__}) cannot use it: computing on the CPU"


def allow_tf32(allowed: bool) -> None:
    """Let CUDA round the factors of float32 inner products to 10 bits, or forbid it; torch's own default is mixed.

    Args:
        allowed: True in mode "tf32" alone.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _gpu_of_rank() -> torch.device:
    index, count = ranks.local_rank(), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(
            "a GPU for each rank of this machine", f"{count} of them and rank {index}", f"start {count} ranks"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _has_native_bfloat16(place: str) -> bool:
    if place == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _has_matrix_units() -> bool:
    """Whether bfloat16 products take so little of the time that fewer of them may not pay (not measured there)."""
    return bool(torch.cpu._is_amx_tile_supported())


def _in_format_of_kernel(layer: nn.Module, given: tuple[torch.Tensor]) -> torch.Tensor:
    return given[0].to(layer.weight.dtype)  # type: ignore[arg-type]
