"""What is timed together, and which rows of the table come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from discriminator_guidance.benchmark.timing import Timed, Way


@dataclass(frozen=True)
class Comparison:
    """One row before it is timed: two ways of the same work.

    Args:
        name: of the row.
        reference: name of the plain way in its group.
        ours: name of this project's way.
        pictures: that one call handles.
        flops: of one call, 2 for each multiply-add, counted as if nothing were computed twice.
        peak: what the machine could do at most, see `measured_peaks`.
    """

    name: str
    reference: str
    ours: str
    pictures: int
    flops: float
    peak: str


@dataclass(frozen=True)
class Group:
    """Ways that are timed in turn.

    Args:
        ways: by name.
        comparisons: rows that come of them.
    """

    ways: Mapping[str, Way]
    comparisons: Sequence[Comparison]


@dataclass(frozen=True)
class Row:
    """One row of the benchmark.

    Args:
        name: what was done.
        reference_s: seconds of a call the plain way, median.
        ours_s: seconds of a call this project's way, median.
        ratio: how many times as fast this project is.
        flops: of a call.
        percent_of_peak: this project's FLOP/s, in percent of `peak_flops`.
        max_abs_difference: between the results of the two ways.
        reference_spread_s: shortest and longest call.
        ours_spread_s: shortest and longest call.
        rounds: calls of each way that were timed.
        pictures: that a call handles.
        peak: the operation that the machine's peak was measured with.
        peak_flops: its FLOP/s in this run.
        conditions: the machine, its load and libraries.
    """

    name: str
    reference_s: float
    ours_s: float
    ratio: float
    flops: float
    percent_of_peak: float
    max_abs_difference: float
    reference_spread_s: tuple[float, float]
    ours_spread_s: tuple[float, float]
    rounds: int
    pictures: int
    peak: str
    peak_flops: float
    conditions: Mapping[str, Any]


def row(
    comparison: Comparison, timed: Mapping[str, Timed], peaks: Mapping[str, float], conditions: Mapping[str, Any]
) -> Row:
    """A row from what was timed.

    Args:
        comparison: of which two ways.
        timed: the group's ways.
        peaks: FLOP/s of the machine.
        conditions: the machine, its load and libraries.

    Returns:
        The row.
    """
    reference, ours = timed[comparison.reference], timed[comparison.ours]
    peak = peaks[comparison.peak]
    return Row(
        name=comparison.name,
        reference_s=reference.median,
        ours_s=ours.median,
        ratio=reference.median / ours.median,
        flops=comparison.flops,
        percent_of_peak=100 * comparison.flops / ours.median / peak,
        max_abs_difference=float((reference.result.double() - ours.result.double()).abs().max()),
        reference_spread_s=reference.spread,
        ours_spread_s=ours.spread,
        rounds=len(ours.seconds),
        pictures=comparison.pictures,
        peak=comparison.peak,
        peak_flops=peak,
        conditions=conditions,
    )


def printed(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The table as a person reads it.

    Args:
        rows: in order.

    Returns:
        Cells by column.
    """

    def seconds(median: float, spread: tuple[float, float]) -> str:
        return f"{median:.3g} ({spread[0]:.3g}-{spread[1]:.3g})"

    return [
        {
            "row": each.name,
            "pictures": str(each.pictures),
            "reference, s": seconds(each.reference_s, each.reference_spread_s),
            "ours, s": seconds(each.ours_s, each.ours_spread_s),
            "times as fast": f"{each.ratio:.2f}",
            "GFLOP/s": f"{each.flops / each.ours_s / 1e9:.3g}",
            "% of peak": f"{each.percent_of_peak:.0f}",
            "max difference": f"{each.max_abs_difference:.2g}",
        }
        for each in rows
    ]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table as a file keeps it.

    Args:
        rows: in order.

    Returns:
        One dictionary for each row.
    """
    return [asdict(each) for each in rows]
