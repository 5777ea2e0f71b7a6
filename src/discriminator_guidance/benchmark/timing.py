"""Several ways of doing something, timed in turn, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Way:
    """One way of doing something.

    Args:
        run: does it, and returns its result when it is done.
        prepare: called at the start of its turn, outside the time.
    """

    run: Callable[[], Tensor]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Timed:
    """How long one way took.

    Args:
        result: of its first call.
        seconds: of the second call of each round.
    """

    result: Tensor
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The shortest and the longest call, seconds."""
        return min(self.seconds), max(self.seconds)


def interleaved(
    ways: Mapping[str, Way],
    budget_s: float,
    least: int = 3,
    most: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timed]:
    """Time several ways round by round, each twice in a round, of which the second call counts.

    The first one finds the libraries, the caches and the memory as the way before left them; a stage calls its own way
    again and again.

    Args:
        ways: by name.
        budget_s: seconds after which no further round begins.
        least: rounds that are run even beyond that; 2 where they take longer than twice the budget.
        most: rounds at most.
        clock: seconds, from any origin.

    Returns:
        Results and times by name.
    """
    timed: dict[str, Timed] = {}
    began = clock()
    for done in range(most):
        spent = clock() - began
        if spent > budget_s and done >= (min(least, 2) if spent > 2 * budget_s else least):
            break
        for name, way in ways.items():
            way.prepare()
            result = way.run()
            before = clock()
            way.run()
            seconds = clock() - before
            timed.setdefault(name, Timed(result)).seconds.append(seconds)
    return timed
