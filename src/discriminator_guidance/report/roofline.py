"""How fast the machine that was benchmarked is used: FLOP/s of every row beside the peaks of the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.drawing import BLUE, GREY, INK, Picture, finish, logarithmic, new_figure, styled
from discriminator_guidance.report.gather import ReportData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "benchmark.json"  # in the report's folder, where somebody keeps the table of `dguide benchmark`
KEYS = (
    "name",
    "reference_s",
    "ours_s",
    "ratio",
    "flops",
    "peak",
    "peak_flops",
    "percent_of_peak",
    "rounds",
    "conditions",
)


@styled
def roofline_figure(data: ReportData) -> Picture | None:
    """FLOP/s the plain way and this project's way, under the machine's peaks; nothing without a benchmark."""
    rows = read_benchmark(data.inputs.destination / FILE)
    if not rows:
        return None
    figure = new_figure(7.6, 0.31 * len(rows) + 1.5)
    axes: Axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        plain, ours = (row["flops"] / row[key] / 1e9 for key in ("reference_s", "ours_s"))
        peak = row["peak_flops"] / 1e9
        axes.plot([plain, ours], [place, place], color=BLUE, linewidth=1.2, alpha=0.5)
        axes.plot(plain, place, "o", color=GREY, markerfacecolor="white", markersize=5, label="plain way")
        axes.plot(ours, place, "o", color=BLUE, markersize=5, label="this project")
        axes.plot(peak, place, "|", color=INK, markersize=11, markeredgewidth=1.6, label="peak")
        note = f"{row['ratio']:.2f} times as fast, {row['percent_of_peak']:.0f} % of peak"
        axes.text(1.02, place, note, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    logarithmic(axes)
    axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axes.set_xlabel("GFLOP/s")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[:3], labels[:3], loc="outside upper center", ncols=3)
    told = ", ".join(f"{key} {value}" for key, value in rows[0]["conditions"].items())
    return finish(
        figure,
        data,
        "roofline.png",
        "How fast it is",
        "Useful FLOP/s of a call at its median time, the plain way and this project's way, in turn in one process "
        f"with at least {min(row['rounds'] for row in rows)} rounds; bars: what one large operation of the same format "
        f"(the kind each row names) reached in the same run. Conditions: {told}.",
        "Dot plot of FLOP/s, one row for each kind of work, with the machine's peak as a bar.",
    )


def read_benchmark(path: Path) -> Sequence[Mapping[str, Any]]:
    """The table of a benchmark.

    Args:
        path: what `dguide benchmark --json` wrote.

    Returns:
        Its rows; none where there is no file.

    Raises:
        InputError: it is no such table.
    """
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        lacking = [key for row in rows for key in KEYS if key not in row]
    except (ValueError, TypeError) as error:
        raise InputError(f"a list of rows in {path}", " ".join(str(error).split()), _remedy(path)) from error
    if lacking:
        raise InputError(f"key {lacking[0]!r} in every row of {path}", "a row without", _remedy(path))
    return list(rows)


def _remedy(path: Path) -> str:
    return f"write it again with `dguide benchmark --json {path}`, or remove it"
