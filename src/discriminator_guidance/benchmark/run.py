"""Command `benchmark`: this project against the baseline, in turn in one process, and against the machine's peak."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance import progress
from discriminator_guidance.benchmark import baseline
from discriminator_guidance.benchmark.networks import Calls, Networks
from discriminator_guidance.benchmark.timing import Row, finished, measured_peaks, timed
from discriminator_guidance.data.files import write_json
from discriminator_guidance.evaluation.frechet import gaussian_distance, gaussian_of_statistics
from discriminator_guidance.networks.precision import Compute, prepare

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

Call = Callable[[int], Tensor]
MEMBERS, FEATURES = 6, 2048
ROWS, PATIENCE = 7, 1.3  # patience: times the seconds asked for, after which no further row begins
# Of the Frechet distance from two covariances: the eigenvectors of both, a product, its singular values
# (Golub & Van Loan, Matrix Computations).
FRECHET_FLOPS = 2 * 9 + 2 + 8 / 3  # times the cube of the number of features


def benchmark(config: Config, seconds: float, file: Path | None) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Time the rows for about so many seconds; returns the table and the machine's peaks as they are printed."""
    began = perf_counter()
    compute = prepare(config.runtime.device, "auto", min(config.runtime.threads, os.cpu_count() or 1))
    channels, size = 1 if config.real.source == "digits" else 3, config.real.image_size
    conditions = {
        "profile": config.profile,
        "device": compute.record().get("device") or _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),  # mean number of running processes in the last minute
        "torch": torch.__version__,
    }
    peaks = measured_peaks(compute.device)
    rows: list[dict[str, Any]] = []
    with progress.bar("timing", ROWS, "rows") as advance:
        for row in rows_of(Networks(config, (channels, size, size), 10), compute):
            advance(1)
            if perf_counter() - began > PATIENCE * seconds:
                progress.notice(f"no time for {row.name}: raise --seconds")
                continue
            rows.append({**timed(row, row.share * seconds, peaks, baseline.prepare), "conditions": conditions})
            if file is not None:
                write_json(file, rows)
    table = [
        {
            "row": found["name"],
            "images": str(found["images"]),
            "baseline, s": f"{found['reference_s']:.3g}",
            "ours, s": f"{found['ours_s']:.3g}",
            "times as fast": f"{found['ratio']:.2f}",
            "% of peak": f"{found['percent_of_peak']:.0f}",
            "max difference": f"{found['max_abs_difference']:.2g}",
        }
        for found in rows
    ]
    return table, {name: f"{rate / 1e9:.0f}" for name, rate in peaks.items()}


def rows_of(networks: Networks, compute: Compute) -> Iterator[Row]:
    """What is timed, the most telling rows first; float32 and, where the device has it, bfloat16."""
    config, device = networks.config, compute.device
    float32, fast = Compute(device, "float32"), compute.mode == "bfloat16"
    published = Calls(networks, float32, float32, published=True)
    one, six = ([networks.head_size(next(iter(config.members)))] * count for count in (1, MEMBERS))

    def pair(name: str, share: float, call: Callable[[Calls], Call], bf16: bool = fast, warm: bool = False) -> Row:
        own = compute if bf16 else float32
        theirs, ours = (finished(call(calls), device) for calls in (published, Calls(networks, own, own)))
        batch = config.discriminator.batch_size if name == "discriminator_training" else config.guided.batch_size
        return Row(name, theirs, ours, f"convolution {'bf16' if bf16 else 'fp32'}", share, batch, warm)

    if fast:
        yield pair("guided_bf16", 0.25, lambda calls: calls.sampler(one))
    yield pair("discriminator_training", 0.15, lambda calls: calls.training(one[0]))
    yield frechet_row()
    yield pair("guided_fp32", 0.25, lambda calls: calls.sampler(one), bf16=False, warm=True)
    yield pair("unguided", 0.08, lambda calls: calls.sampler([]))
    yield pair("guidance_call", 0.08, lambda calls: calls.guidance(one), warm=True)
    yield pair("guided_six_members", 0.09, lambda calls: calls.sampler(six))


def frechet_row(width: int = FEATURES) -> Row:
    """The distance of two Gaussians: ours, and by scipy's root of the product of the covariances."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    mu1, mu2 = rng.standard_normal((2, width))
    sigma1, sigma2 = (
        np.cov(rng.standard_normal((3 * width, width)) * np.linspace(0.1, 2.0, width), rowvar=False) for _ in range(2)
    )

    def baseline_distance(_: int) -> Tensor:
        root = np.trace(sqrtm(sigma1 @ sigma2).real)
        return torch.tensor(((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root)

    def ours(_: int) -> Tensor:
        sets = ((mu1, sigma1), (mu2, sigma2))
        one, other = (gaussian_of_statistics(*each, width, "benchmark") for each in sets)
        return torch.tensor(gaussian_distance(one, other))

    return Row(f"frechet_{width}", baseline_distance, ours, "gemm fp64", 0.1, flops=FRECHET_FLOPS * width**3)


def _processor() -> str:
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text(encoding="utf-8").splitlines() if processors.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
