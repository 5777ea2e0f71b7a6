"""About ten seconds of what the stages of a profile do, timed on this machine with its real networks and precisions."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from discriminator_guidance.evaluation.distances import frechet_distance_from_features, kid
from discriminator_guidance.evaluation.manifold import precision_recall
from discriminator_guidance.evaluation.significance import frechet_influence
from discriminator_guidance.planning.blueprints import Blueprints
from discriminator_guidance.planning.commands import Command
from discriminator_guidance.planning.estimate import Speed
from discriminator_guidance.planning.metrics import frechet_flops, influence_flops, kid_flops, manifold_flops
from discriminator_guidance.planning.rates import Rate, first_size, from_flops, time_pictures
from discriminator_guidance.planning.tracing import Traces
from discriminator_guidance.planning.work import Pass, added
from discriminator_guidance.stages.timed_calls import TimedCalls

METRICS_SHARE = 0.2  # of the time
LEAST = 16  # pictures in a timed call of a metric
METRIC_FEATURES = 256  # and pictures, at the most: an eigenvalue problem of Inception's 2,048 takes the whole time


def calibrate(
    blueprints: Blueprints, traces: Traces, commands: list[Command], budget_s: float, advance: Callable[[int], None]
) -> tuple[Speed, TimedCalls]:
    """Measure this machine: the passes that cost most first, each for an equal part of what time is left.

    Args:
        blueprints: of the profile.
        traces: FLOPs of its passes.
        commands: its stage runs.
        budget_s: seconds for the networks and metrics; the start of Python and of libraries comes on top.
        advance: told each pass that is done.

    Returns:
        Rates; the calls tell device and precisions.
    """
    base, start_up = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, _start_up_s()
    calls = TimedCalls(blueprints)
    pictures = {way: 0 for command in commands for way in map(traces.alike, command.passes)}
    for way, count in added(command.passes for command in commands).items():
        pictures[traces.alike(way)] += count
    flops = {way: traces.of(way).flops for way in pictures}
    timed: dict[Pass, Rate] = {}
    left = (1 - METRICS_SHARE) * budget_s
    ordered = sorted(pictures, key=lambda way: -pictures[way] * flops[way])
    for place, way in enumerate(ordered):
        call = calls.of(way) if left > 0 or not timed else None
        if call is not None:
            began = time.perf_counter()
            run, most = call
            rate = time_pictures(run, first_size(flops[way], most), most, left / (len(ordered) - place))
            left -= time.perf_counter() - began
            # A call of the sampler evaluates the network three times.
            timed[way] = Rate(rate.seconds / 3, rate.at_once) if way.kind == "score" else rate
        advance(1)
    metrics, evaluation_s = _metrics(blueprints, METRICS_SHARE * budget_s, calls.sampling.device)
    advance(1)
    rates = from_flops(flops, timed, pictures)
    return Speed(rates, metrics, start_up, evaluation_s, _decode_s(), base), calls


def _start_up_s() -> float:
    began = time.perf_counter()
    program = "import discriminator_guidance.config, discriminator_guidance.stages.guided"
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - began


def _metrics(blueprints: Blueprints, budget_s: float, device: torch.device) -> tuple[Mapping[str, float], float]:
    """Seconds for each FLOP of a metric, and for having the libraries ready."""
    settings = blueprints.config.evaluation
    d, rng = min(blueprints.features, METRIC_FEATURES), np.random.default_rng(0)
    size = settings.kid_subset_size

    least = {"frechet": d + 1}  # its work is another where there are fewer pictures than features

    def rows(n: int, least: int = LEAST) -> np.ndarray:
        return rng.standard_normal((max(n, least), d))

    runs: dict[str, tuple[Callable[[int], object], Callable[[int], float]]] = {
        "frechet": (
            lambda n: frechet_distance_from_features(rows(n, d + 1), rows(n, d + 1)),
            lambda n: frechet_flops(n, n, d),
        ),
        "influence": (lambda n: frechet_influence(rows(n), rows(n)), lambda n: influence_flops(n, n, d)),
        "kid": (lambda n: kid(rows(size), rows(size), n, size, 0), lambda n: kid_flops(n, size, d)),
        # Returns numbers: the device is done then.
        "manifold": (
            lambda n: precision_recall(rows(n), rows(n), 3, device=device),
            lambda n: manifold_flops(n, n, d),
        ),
    }
    began = time.perf_counter()
    for run, _ in runs.values():
        run(1)
    ready = time.perf_counter() - began
    seconds = {}
    most = {"kid": settings.kid_subsets, "manifold": 2 * METRIC_FEATURES}
    for name, (run, flops) in runs.items():
        largest = most.get(name, blueprints.config.guided.images)
        rate = time_pictures(run, min(largest, LEAST), largest, budget_s / len(runs))
        n = rate.at_once if name == "kid" else max(rate.at_once, least.get(name, LEAST))
        seconds[name] = rate.seconds * rate.at_once / flops(n)
    return seconds, ready


def _decode_s() -> float:
    """Seconds for decoding one small picture file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG")
    content, count = file.getvalue(), 100
    began = time.perf_counter()
    for _ in range(count):
        np.asarray(Image.open(io.BytesIO(content)))
    return (time.perf_counter() - began) / count
