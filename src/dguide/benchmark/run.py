"""Command `benchmark`: this project against the baseline, in turn in one process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.benchmark import timer  # waits for a GPU

from dguide import tracking
from dguide.benchmark import baseline
from dguide.benchmark.networks import Call, Calls, head_network
from discriminator_guidance.files import write_json
from discriminator_guidance.metrics.distances import distance_of_moments
from discriminator_guidance.runtime import Compute, prepare

if TYPE_CHECKING:
    from dguide.settings import Config

CLASSES = 10
FEATURES = 2048  # of the Frechet distance
MOST_ROUNDS = 15  # of calls


@dataclass(frozen=True)
class Row:
    """A row: the same work as functions of the number of images."""

    name: str
    baseline: Call
    ours: Call
    share: float  # of the seconds
    batch: int = 1  # images in a call at the most


def benchmark(config: Config, seconds: float, file: Path) -> list[dict[str, Any]]:
    """Time the rows for about the given seconds and write them to a file; returns the table that is printed."""
    compute = prepare(config.runtime.device, "auto", min(config.runtime.threads, os.cpu_count() or 1))
    conditions = {
        "profile": config.profile,
        "device": compute.record().get("device") or _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),  # mean number of running processes in the last minute
        "torch": torch.__version__,
    }
    rows: list[dict[str, Any]] = []
    with tracking.bar("timing", 3 + (compute.mode == "bfloat16"), "rows") as advance:
        for row in rows_of(config, compute):
            rows.append({**timed(row, row.share * seconds), "conditions": conditions})
            write_json(file, rows)
            advance(1)
    return [{key: found[key] for key in ("name", "images", "reference_s", "ours_s", "ratio")} for found in rows]


def rows_of(config: Config, compute: Compute) -> Iterator[Row]:
    """The rows that are timed, the most telling first; bfloat16 where the device has it."""
    float32, head = Compute(compute.device, "float32"), head_network(config, next(iter(config.members)))
    shape = 1 if config.real.source == "digits" else 3, config.real.image_size, config.real.image_size

    def row(name: str, own: Compute, share: float, batch: int, call: Callable[[Calls], Call]) -> Row:
        theirs = Calls(config, shape, CLASSES, float32, float32, published=True)
        return Row(name, call(theirs), call(Calls(config, shape, CLASSES, own, own)), share, batch)

    batch = config.discriminator.batch_size
    yield row("discriminator_training", compute, 0.35, batch, lambda calls: calls.head_training(head))
    images = config.guided.batch_size
    if compute.mode == "bfloat16":
        yield row("guided_bf16", compute, 0.25, images, lambda calls: calls.sampler(head))
    yield frechet_row()
    yield row("guided_fp32", float32, 0.2, images, lambda calls: calls.sampler(head))


def frechet_row() -> Row:
    """The distance of two Gaussians: ours, and by scipy's root of the product of the covariances."""
    from scipy.linalg import sqrtm

    rng, width = np.random.default_rng(0), FEATURES
    mu1, mu2 = rng.standard_normal((2, width))
    sigma1, sigma2 = (
        np.cov(rng.standard_normal((3 * width, width)) * np.linspace(0.1, 2.0, width), rowvar=False) for _ in range(2)
    )

    def baseline_distance(_: int) -> float:
        root = np.trace(sqrtm(sigma1 @ sigma2).real)
        return float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root)

    return Row(f"frechet_{width}", baseline_distance, lambda _: distance_of_moments(mu1, sigma1, mu2, sigma2), 0.2)


def timed(row: Row, budget: float, clock: Callable[[], float] = timer) -> dict[str, Any]:
    """The numbers of a row, whose two sides are called in turn for about `budget` seconds.

    Whatever else the machine does meets both of them alike. The first round, of one image, tells how many images the
    next ones can have; it counts if there is no time for another.
    """
    began = clock()

    def seconds_of(call: Call, published: bool, n: int) -> float:
        baseline.prepare(published)
        call(n)  # memory and caches
        before = clock()
        call(n)
        return clock() - before

    def timed_round(n: int) -> tuple[float, float]:
        return seconds_of(row.baseline, True, n), seconds_of(row.ours, False, n)

    rounds = [timed_round(1)]
    an_image = 2 * sum(rounds[0])
    n = max(1, min(row.batch, int((budget - (clock() - began)) / an_image)))
    while len(rounds) <= MOST_ROUNDS:
        used = clock() - began
        if used + n * an_image > budget and (len(rounds) > 1 or used > budget):
            break
        rounds.append(timed_round(n))
    rounds = rounds[1:] or rounds
    theirs, ours = zip(*rounds, strict=True)
    return {
        "name": row.name,
        "reference_s": median(theirs),
        "ours_s": median(ours),
        "ratio": median(theirs) / median(ours),
        "reference_spread_s": [min(theirs), max(theirs)],
        "ours_spread_s": [min(ours), max(ours)],
        "rounds": len(rounds),
        "images": n,
    }


def _processor() -> str:
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text(encoding="utf-8").splitlines() if processors.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
