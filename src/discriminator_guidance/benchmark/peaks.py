"""What the machine can do at most: a large matrix product and a large convolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from discriminator_guidance.benchmark.timing import Way, interleaved
from discriminator_guidance.networks.memory import keep_memory

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
WORK = {"cpu": 0.02e12, "cuda": 2e12}  # FLOPs of a call, about
CHANNELS, SIZE = 256, 32  # as in the score network of CIFAR-10


def measured_peaks(device: torch.device, budget_s: float) -> dict[str, float]:
    """The rates of single large operations.

    Args:
        device: where.
        budget_s: seconds.

    Returns:
        FLOP/s by "gemm fp64", "convolution bf16", ...: at the median time, a convolution in the better of two layouts.
    """
    ways: dict[str, Way] = {}
    flops: dict[str, float] = {}

    def add(name: str, operation: Callable[[], Tensor], count: float) -> None:
        ways[name], flops[name] = Way(finished(operation, device), keep_memory), count

    edge = 64 * round((WORK[device.type] / 2) ** (1 / 3) / 64)
    pictures = max(1, round(WORK[device.type] / (2 * 9 * CHANNELS**2 * SIZE**2)))
    for name, dtype in FORMATS.items():
        factor = torch.randn(edge, edge, device=device).to(dtype)
        add(f"gemm {name}", lambda factor=factor: factor @ factor, 2.0 * edge**3)  # type: ignore[misc]
        if name == "fp64":
            continue
        picture = torch.randn(pictures, CHANNELS, SIZE, SIZE, device=device).to(dtype)
        kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device).to(dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            x, w = picture.to(memory_format=layout), kernel.to(memory_format=layout)
            add(
                f"convolution {name} {layout}",
                lambda x=x, w=w: F.conv2d(x, w, padding=1),  # type: ignore[misc]
                2.0 * 9 * CHANNELS**2 * SIZE**2 * pictures,
            )
    peaks: dict[str, float] = {}
    with torch.no_grad():
        timed = interleaved(ways, budget_s, least=5, most=50)
    for name, found in timed.items():
        key = " ".join(name.split()[:2])
        peaks[key] = max(peaks.get(key, 0.0), flops[name] / found.median)
    return peaks


def finished(run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Something to be timed, which on a GPU is not done when it returns.

    Args:
        run: does it.
        device: where.

    Returns:
        The same, waiting for its end.
    """

    def whole() -> Tensor:
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    return whole
