"""Where and in which floating-point format networks run."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Compute:
    """A device and the format of the networks' inner products.

    Args:
        device: where networks and batches live.
        mode: "float32", or "bfloat16" for autocast; parameters, preconditioning and sampler state keep full precision.
    """

    device: torch.device
    mode: str

    def autocast(self) -> torch.autocast:
        """Open the floating-point format of this mode for what runs inside.

        Returns:
            A context manager; in float32 it does nothing.
        """
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mode == "bfloat16")


def resolve_compute(device: str, precision: str) -> Compute:
    """Turn settings into what this machine does.

    Args:
        device: "cpu", "cuda" or "auto" (cuda when there is one).
        precision: "float32", "bfloat16" or "auto" (bfloat16 where the device has it natively).

    Returns:
        Device and mode; the mode is recorded with every result.
    """
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if precision == "auto":
        precision = "bfloat16" if _has_native_bfloat16(place) else "float32"
    return Compute(torch.device(place), precision)


def _has_native_bfloat16(place: str) -> bool:
    if place == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
