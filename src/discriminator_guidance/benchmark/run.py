"""The whole benchmark, in one process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from discriminator_guidance.benchmark.groups import Group, Row, row
from discriminator_guidance.benchmark.metrics import feature_group, frechet_group, manifold_group
from discriminator_guidance.benchmark.peaks import measured_peaks
from discriminator_guidance.benchmark.sampling import Frozen, Networks, part_groups, sampling_groups
from discriminator_guidance.benchmark.timing import interleaved
from discriminator_guidance.benchmark.training import training_groups
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.planning.blueprints import Blueprints
from discriminator_guidance.planning.tracing import Traces
from discriminator_guidance.stages.context import prepare_compute

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.planning.blueprints import Pictures

GROUPS = 13  # that `benchmark` times, the machine's peaks included


def benchmark(
    profile: str, config: Config, pictures: Pictures, budget_s: float, on_rows: Callable[[list[Row]], None]
) -> tuple[list[Row], dict[str, float]]:
    """Time the plain way and this project's way of everything that costs time.

    Args:
        profile: its name, for the record.
        config: the profile; its networks start with random weights.
        pictures: their shape.
        budget_s: seconds of timing, about; each way is timed at least three times, or twice where that takes long.
        on_rows: told all rows so far after each group, so that an interrupted run has not been for nothing.

    Returns:
        The rows, and the machine's peaks in FLOP/s.
    """
    threads = min(config.runtime.threads, cores())
    trained = prepare_compute(config.runtime.device, "auto", threads)
    device = trained.device
    share = budget_s / GROUPS
    peaks = measured_peaks(device, share / 2)
    on_rows([])
    conditions = {"profile": profile, **machine(device, threads)}
    rows: list[Row] = []
    for group in _groups(Blueprints(config, pictures), trained):
        timed = interleaved(group.ways, share)
        rows += [row(comparison, timed, peaks, conditions) for comparison in group.comparisons]
        on_rows(rows)
    return rows, peaks


def cores() -> int:
    """The processors this process may use.

    Returns:
        Their number.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What a time depends on besides the code.

    Args:
        device: where networks compute.
        threads: of the CPU.

    Returns:
        Names and numbers; `load` is the mean number of processes that wanted to run in the last minute.
    """
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    return {
        "device": gpu or _processor(),
        "threads": threads,
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def _groups(blueprints: Blueprints, trained: Compute) -> Iterator[Group]:
    networks = Networks(blueprints, Traces(blueprints), trained.device)
    precisions = {
        name: Frozen(networks, Compute(trained.device, mode))
        for name, mode in (("fp32", "float32"), ("bf16", "bfloat16"))
    }
    frozen = precisions["bf16" if trained.mode == "bfloat16" else "fp32"]
    yield from sampling_groups(networks, precisions)
    yield from part_groups(networks, precisions)
    yield from training_groups(networks, trained, frozen)
    yield feature_group(networks)
    yield frechet_group()
    yield manifold_group()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
