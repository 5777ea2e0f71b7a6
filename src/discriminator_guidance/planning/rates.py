"""From a few seconds of timing to seconds for each picture of each pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from discriminator_guidance.networks.memory import empty_caches, tells_of_exhaustion
from discriminator_guidance.planning.work import Pass

GROWTH = 4  # from one batch size tried to the next
WORTH_TIMING = 2e9  # FLOPs of the first call that is timed


@dataclass(frozen=True)
class Rate:
    """How fast this machine is at something.

    Args:
        seconds: for each picture.
        at_once: pictures in the calls that were timed; 0 where none was, and FLOPs had to do.
    """

    seconds: float
    at_once: int


def first_size(flops: float, most: int) -> int:
    """A batch that is worth timing: a call with less would measure the call.

    Args:
        flops: of one picture.
        most: largest batch.

    Returns:
        Pictures, at least 1.
    """
    return max(1, min(most, int(WORTH_TIMING / max(flops, 1.0))))


def time_pictures(
    run: Callable[[int], object],
    start: int,
    most: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Rate:
    """Time something at growing batch sizes, as far as time and the device's memory allow.

    Args:
        run: does it with so many pictures, and returns when it is done.
        start: first batch that is timed, after a call with one picture that prepares.
        most: largest batch.
        budget_s: seconds; the first three calls are made in any case.
        clock: seconds, from any origin.

    Returns:
        The rate at the largest batch reached: the mean over its calls without the first one, which also prepares.

    Raises:
        RuntimeError: of the device: it has no room for one picture.
    """
    began = clock()

    def timed(size: int) -> float:
        before = clock()
        run(size)
        return clock() - before

    def tried(size: int) -> float | None:
        """Seconds of a call; None where it does not fit."""
        try:
            return timed(size)
        except RuntimeError as error:
            if size == 1 or not tells_of_exhaustion(error):
                raise
        empty_caches()
        return None

    timed(1)
    size, repeated = start, list[float]()
    while (last := tried(size)) is None:
        most = size = -(-size // 2)
    while True:
        left = budget_s - (clock() - began)
        bigger = min(most, GROWTH * size)
        if bigger > size and last * bigger / size <= left:
            if (longer := tried(bigger)) is None:
                most = size
            else:
                size, repeated, last = bigger, [], longer
        elif last <= left or not repeated:
            last = timed(size)
            repeated.append(last)
        else:
            return Rate(sum(repeated) / len(repeated) / size, size)


def from_flops(
    flops: Mapping[Pass, float], timed: Mapping[Pass, Rate], pictures: Mapping[Pass, int]
) -> dict[Pass, Rate]:
    """Rates for all passes: those that were timed, the others at the FLOP/s of those.

    Args:
        flops: of one picture of each pass.
        timed: what was timed, at least one.
        pictures: how many a profile sends through each pass; the weight of its FLOP/s.

    Returns:
        A rate for each pass of `flops`.
    """
    seconds = sum(pictures[way] * rate.seconds for way, rate in timed.items())
    speed = sum(pictures[way] * flops[way] for way in timed) / seconds
    return {way: timed.get(way) or Rate(flops[way] / speed, 0) for way in flops}
