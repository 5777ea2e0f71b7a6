"""Ways of the same work, timed in turn, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Result = TypeVar("Result")
ROUNDS, MOST_ROUNDS = 2, 15  # of calls, at least and at most
CHANNELS, SIZE = 256, 32  # of the convolution whose rate is a peak, as in the score network of CIFAR-10


@dataclass(frozen=True)
class Row:
    """A row: the same work as functions of the number of images, and the peak that ours is compared with."""

    name: str
    baseline: Callable[[int], Tensor]
    ours: Callable[[int], Tensor]
    peak: str
    share: float  # of the seconds
    batch: int = 1  # images in a call at the most
    warm: bool = False  # whether each call is made twice, and the second one counts
    flops: float | None = None  # of an image, where torch does not compute


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations in convolutions and matrix products, 2 for each multiply-add, also in backward passes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it; torch's own FlopCounterMode cannot follow `torch.autograd.grad`."""
        result = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def timed(
    row: Row,
    budget: float,
    peaks: Mapping[str, float],
    prepare: Callable[[str], None],
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Any]:
    """The numbers of a row, whose two ways are called in turn, at least twice, for about so many seconds.

    A first call of each way with one image tells how many images the next ones can have; where that is one image, it
    counts as well.
    """
    began, ways = clock(), {"baseline": row.baseline, "ours": row.ours}
    flops, results, seconds = dict[str, float](), dict[str, Tensor](), dict[str, list[float]]()

    def call(name: str, n: int) -> None:
        before = clock()
        results[name] = ways[name](n)
        seconds.setdefault(name, []).append(clock() - before)

    for name in ways:
        prepare(name)
        with Flops() as counter:
            call(name, 1)
        flops[name] = row.flops or counter.total
    first = clock() - began
    n = int((budget - first) / (ROUNDS * (2 if row.warm else 1) * first))
    n = max(1, min(row.batch, n))
    rounds = 1
    if n > 1:
        seconds, rounds = {}, 0
    # Two rounds, unless the machine is so busy that one takes all the time; more while they fit.
    while rounds < MOST_ROUNDS and (
        (clock() - began) * (rounds + 1) <= budget * rounds or (rounds < ROUNDS and clock() - began < ROUNDS * budget)
    ):
        for name, way in ways.items():
            prepare(name)
            if row.warm:
                way(n)
            call(name, n)
        rounds += 1
    reference, took = median(seconds["baseline"]), median(seconds["ours"])
    return {
        "name": row.name,
        "reference_s": reference,
        "ours_s": took,
        "ratio": reference / took,
        "flops": n * flops["ours"],
        "percent_of_peak": 100 * n * flops["ours"] / took / peaks[row.peak],
        "max_abs_difference": float((results["baseline"].double() - results["ours"].double()).abs().max()),
        "reference_spread_s": [min(seconds["baseline"]), max(seconds["baseline"])],
        "ours_spread_s": [min(seconds["ours"]), max(seconds["ours"])],
        "rounds": rounds,
        "images": n,
        "peak": row.peak,
        "peak_flops": peaks[row.peak],
    }


def finished(call: Callable[[int], Result], device: torch.device) -> Callable[[int], Result]:
    """The same call, waiting for its end: on a GPU it is not done when it returns."""

    def whole(n: int) -> Result:
        result = call(n)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    return whole


@torch.no_grad()
def measured_peaks(device: torch.device) -> dict[str, float]:
    """FLOP/s of single large operations: "gemm fp64" a matrix product, "convolution fp32" and "convolution bf16"."""
    edge, images = (1024, 8) if device.type == "cpu" else (8192, 512)
    peaks = dict[str, float]()

    def measure(name: str, flops: float, operation: Callable[[int], Tensor]) -> None:
        call, times = finished(operation, device), list[float]()
        for _ in range(4):
            began = perf_counter()
            call(1)
            times.append(perf_counter() - began)
        peaks[name] = max(peaks.get(name, 0.0), flops / median(times[1:]))

    factor = torch.randn(edge, edge, device=device, dtype=torch.float64)
    measure("gemm fp64", 2.0 * edge**3, lambda _: factor @ factor)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        convolution = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, device=device, dtype=dtype)
        x = torch.randn(images, CHANNELS, SIZE, SIZE, device=device, dtype=dtype)
        flops = 2.0 * 9 * CHANNELS**2 * SIZE**2 * images
        for layout in (torch.contiguous_format, torch.channels_last):
            convolution.to(memory_format=layout)  # type: ignore[call-overload]
            x = x.to(memory_format=layout)
            measure(f"convolution {name}", flops, lambda _: convolution(x))  # noqa: B023
    return peaks
