"""FLOPs, memory and seconds of stage runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from discriminator_guidance.planning.commands import Command
from discriminator_guidance.planning.rates import Rate
from discriminator_guidance.planning.tracing import Traces
from discriminator_guidance.planning.work import Pass, network_evaluations

# Start-ups of the program that stages without networks take: `real` as in a run of profile mini, `report` by guess.
START_UPS = {"real": 0.5, "report": 3.0}
MAKERS = ("score", "extractor", "fid_network", "discriminator")
COPIES = 4  # beside a trained weight: its gradient, two moments, and an average or the weights to keep


@dataclass(frozen=True)
class Speed:
    """What this machine was measured to do.

    Args:
        rates: of the passes.
        metrics: seconds for each FLOP of a metric, by name.
        start_up_s: from the start of the program until a stage begins.
        evaluation_s: until the libraries of the metrics are there.
        decode_s: for reading one picture file.
        base_bytes: of a process before it does anything.
    """

    rates: Mapping[Pass, Rate]
    metrics: Mapping[str, float]
    start_up_s: float
    evaluation_s: float
    decode_s: float
    base_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a stage run costs.

    Args:
        command: which.
        evaluations: times a picture passes a network.
        flops: in networks and metrics.
        disk: bytes left behind.
        memory: bytes at the most.
        seconds: without the start of the program.
    """

    command: Command
    evaluations: int
    flops: float
    disk: float
    memory: float
    seconds: float


def estimate(command: Command, traces: Traces, speed: Speed) -> Estimate:
    """What a stage run costs.

    Args:
        command: which.
        traces: FLOPs and bytes of its passes.
        speed: of this machine.

    Returns:
        Its costs.
    """
    ways = {traces.alike(way): pictures for way, pictures in command.passes.items()}
    costs = {way: traces.of(way) for way in ways}
    weights = traces.weights_of(command)
    makes = weights[-1] if command.stage in MAKERS else 0
    trains = any(way.kind.endswith("step") for way in ways)
    seconds = (
        START_UPS.get(command.stage, 0.0) * speed.start_up_s
        + command.files * speed.decode_s
        + (speed.evaluation_s if command.metrics else 0.0)
        + sum(pictures * speed.rates[way].seconds for way, pictures in ways.items())
        + sum(flops * speed.metrics[name] for name, flops in command.metrics.items())
    )
    return Estimate(
        command,
        network_evaluations(ways),
        sum(pictures * costs[way].flops for way, pictures in ways.items()) + sum(command.metrics.values()),
        command.disk + makes,
        speed.base_bytes
        + command.arrays
        + _grid(command, traces)
        + sum(weights)
        + (COPIES * makes if trains else 0)
        + command.batch * max((cost.bytes for cost in costs.values()), default=0.0),
        seconds,
    )


def _grid(command: Command, traces: Traces) -> int:
    """Bytes of the feature maps of a grid."""
    return 4 * command.grid * prod(traces.extractor.feature_shape)


def together(parts: Sequence[Estimate], command: Command) -> Estimate:
    """Several runs as one row.

    Args:
        parts: the runs.
        command: what the row is called.

    Returns:
        Sums; of the memory the largest.
    """
    return Estimate(
        command,
        sum(part.evaluations for part in parts),
        sum(part.flops for part in parts),
        sum(part.disk for part in parts),
        max((part.memory for part in parts), default=0.0),
        sum(part.seconds for part in parts),
    )
