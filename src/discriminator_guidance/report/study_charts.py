"""Charts of a search: its history, what mattered, where good trials lie, and what they cost.

Drawn from the record and not by `optuna.visualization`: that knows the shares a weight is made of, not the weight, and
draws in a style and a global state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from discriminator_guidance.report.drawing import BLUE, GREEN, GREY, INK, RED, STYLE, logarithmic, new_figure, png
from discriminator_guidance.report.study_record import Axis, Trial, axes_of, best_trial, front_of, trials_of
from discriminator_guidance.report.wording import scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[Mapping[str, Any], list[Trial]], "Figure | None"]

WIDE = 4.0  # values that differ by more than this factor stand on a logarithmic axis
ACROSS = 4  # slices in a row
COLORS = "viridis_r"


def study_charts(
    record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], dpi: int, note: str = ""
) -> dict[str, bytes]:
    """Draw every chart there is something to draw in.

    Args:
        record: of the study, see `study_record`.
        rows: its table, a row for each trial.
        dpi: dots an inch.
        note: what must be said of the real data, "" for nothing.

    Returns:
        PNG by name, of `history`, `importances`, `parallel`, `slice` and `pareto`; the same study gives the same bytes.
    """
    import matplotlib

    trials, pictures = trials_of(record, rows), {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        for name, draw in CHARTS.items():
            if (figure := draw(record, trials)) is not None:
                pictures[name] = png(figure, dpi, note)
    return pictures


def _history(record: Mapping[str, Any], trials: list[Trial]) -> Figure:
    figure = new_figure(9.0, 3.8)
    axes = figure.subplots()
    kinds = (
        ([t for t in trials if t.complete and not t.start], "o", BLUE, "searched"),
        ([t for t in trials if t.complete and t.start], "D", GREEN, "every study begins with"),
        ([t for t in trials if t.state == "pruned" and t.value is not None], "x", GREY, "pruned (value so far)"),
    )
    for shown, marker, color, label in kinds:
        if shown:
            axes.plot(
                [t.number for t in shown],
                [t.value for t in shown if t.value is not None],
                marker,
                color=color,
                markersize=5,
                label=f"{label}: {len(shown)}",
            )
    best, steps = math.inf, []
    for trial in trials:
        best = min(best, trial.value) if trial.complete and trial.value is not None else best
        steps.append(best)
    begun = next(place for place, value in enumerate(steps) if math.isfinite(value))
    axes.plot(
        [t.number for t in trials[begun:]],
        steps[begun:],
        color=RED,
        drawstyle="steps-post",
        label="best so far",
        zorder=1,
    )
    axes.set_xlabel("trial")
    _value_axis(axes, record, [t.value for t in trials if t.value is not None])
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _importances(record: Mapping[str, Any], trials: list[Trial]) -> Figure | None:
    shares = sorted(record["importances"].items(), key=lambda item: item[1])
    if not shares:
        return None
    figure = new_figure(7.0, 1.0 + 0.3 * len(shares))
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in shares], [share for _, share in shares], color=BLUE, height=0.65)
    axes.bar_label(bars, [f"{100 * share:.0f} %" for _, share in shares], padding=3, color=INK)
    axes.set_xlim(0, 1.15 * max(max(share for _, share in shares), 0.01))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of the objective's variance over the searched space (fANOVA)")
    return figure


def _parallel(record: Mapping[str, Any], trials: list[Trial]) -> Figure:
    from matplotlib import colormaps

    axes_told, best = axes_of(record), best_trial(record, trials)
    shown = sorted((t for t in trials if t.complete), key=lambda t: -(t.value or 0.0))
    figure = new_figure(max(7.0, 1.15 * (len(axes_told) + 1)), 4.4)
    axes = figure.subplots()
    places = range(len(axes_told))
    for rank, trial in enumerate(shown):
        color = colormaps[COLORS](rank / max(1, len(shown) - 1))
        heights = [_height(axis, trial.params[axis.name]) for axis in axes_told]
        axes.plot(places, heights, color=color, linewidth=1.0)
    heights = [_height(axis, best.params[axis.name]) for axis in axes_told]
    axes.plot(places, heights, color=RED, linewidth=2.4, marker="o", label=f"best, trial {best.number}")
    for place, axis in enumerate(axes_told):
        axes.axvline(place, color="#8a939c", linewidth=0.8, zorder=0)
        for text, height in _marks(axis):
            axes.annotate(
                text, (place, height), (4, 0), textcoords="offset points", va="center", fontsize=7.5, color=GREY
            )
    axes.set_xticks(places, labels=[axis.name for axis in axes_told], rotation=30, ha="right")
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title("dark: good    light: bad", fontweight="normal", color=GREY)
    figure.legend(loc="outside lower center")
    return figure


def _slice(record: Mapping[str, Any], trials: list[Trial]) -> Figure:
    axes_told, best = axes_of(record), best_trial(record, trials)
    shown = [t for t in trials if t.complete]
    down = math.ceil(len(axes_told) / ACROSS)
    figure = new_figure(11.0, 0.5 + 2.4 * down)
    grid = figure.subplots(down, ACROSS, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(axes_told):
            axes.set_axis_off()
            continue
        axis = axes_told[place]
        points = axes.scatter(
            [_coordinate(axis, t.params[axis.name]) for t in shown],
            [t.value for t in shown],
            c=[t.number for t in shown],
            cmap=COLORS,
            s=18,
        )
        axes.plot(
            _coordinate(axis, best.params[axis.name]),
            best.value,
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=RED,
        )
        if axis.choices:
            axes.set_xticks(range(len(axis.choices)), labels=[choice.replace("_", "\n") for choice in axis.choices])
            axes.set_xlim(-0.5, len(axis.choices) - 0.5)
        elif axis.log:
            logarithmic(axes)
        axes.set_xlabel(axis.name)
        _value_axis(axes, record, [t.value for t in shown if t.value is not None], labelled=False)
    figure.supylabel(_wrapped(record["objective"]), fontsize=9, color=INK)
    figure.colorbar(points, ax=grid, label="trial", shrink=0.8, aspect=40)
    return figure


def _pareto(record: Mapping[str, Any], trials: list[Trial]) -> Figure | None:
    placed = [t for t in trials if t.complete and t.front is not None]
    if not placed:
        return None
    figure, front, best = new_figure(7.5, 4.2), front_of(trials), best_trial(record, trials)
    axes = figure.subplots()
    for shown, color, label in (
        ([t for t in placed if not t.start], BLUE, "searched"),
        ([t for t in placed if t.start], GREEN, "every study begins with"),
    ):
        if shown:
            axes.plot(*_front(shown), "o", color=color, markersize=5, label=label)
    axes.plot(*_front(front), color=RED, drawstyle="steps-post", linewidth=1.4, label="Pareto front", zorder=1)
    if best.front is not None:
        axes.plot(
            *_front([best]), "o", markersize=10, markerfacecolor="none", markeredgecolor=RED, label="smallest objective"
        )
    for trial in placed:
        if trial.start and trial.front is not None:
            axes.annotate(trial.start, trial.front, (5, 3), textcoords="offset points", fontsize=7.5, color=GREY)
    costs = [t.front[0] for t in placed if t.front]
    if min(costs) > 0 and max(costs) > WIDE * min(costs) and not all(cost.is_integer() for cost in costs):
        logarithmic(axes)
    axes.set_xlabel(record["pareto"]["cost"]["label"])
    _value_axis(axes, record, [t.front[1] for t in placed if t.front], labelled=False)
    axes.set_ylabel(_wrapped(record["pareto"]["value"]["label"]))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


CHARTS: Mapping[str, Draw] = {
    "history": _history,
    "importances": _importances,
    "parallel": _parallel,
    "slice": _slice,
    "pareto": _pareto,
}


def _front(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    pairs = [trial.front for trial in trials if trial.front is not None]
    return [cost for cost, _ in pairs], [value for _, value in pairs]


def _value_axis(axes: Axes, record: Mapping[str, Any], values: Sequence[float], labelled: bool = True) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if labelled:
        axes.set_ylabel(_wrapped(record["objective"]))


def _coordinate(axis: Axis, value: float | str) -> float:
    return float(axis.choices.index(str(value))) if axis.choices else float(value)


def _height(axis: Axis, value: float | str) -> float:
    """Where a value stands between the ends of its axis, 0 to 1."""
    at, low, high = _coordinate(axis, value), axis.low, axis.high
    if axis.log:
        at, low, high = math.log(max(at, low)), math.log(low), math.log(high)
    return min(1.0, max(0.0, (at - low) / (high - low)))


def _marks(axis: Axis) -> list[tuple[str, float]]:
    if axis.choices:
        return [(choice, _height(axis, choice)) for choice in axis.choices]
    return [(scientific(end), _height(axis, end)) for end in (axis.low, axis.high)]


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 44)
