"""Chart of every variant's FID and its paired difference from no guidance, with intervals and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from discriminator_guidance.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    Picture,
    finish,
    new_figure,
    sample_text,
    styled,
)
from discriminator_guidance.report.gather import REFERENCE, ReportData
from discriminator_guidance.report.wording import estimate, fid_label, reference_text, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


@styled
def fid_figure(data: ReportData) -> Picture | None:
    """FID of every variant and its paired difference from the unguided one, each with its 95 % interval."""
    label, names = fid_label(data.fid_network), list(data.evaluations)
    figure = new_figure(11.0, 1.6 + 0.32 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    linear = _linear_range(data)
    left.set_xscale("log", nonpositive="clip")
    right.set_xscale("symlog", linthresh=linear, linscale=1.0)
    for place, name in enumerate(names):
        result, color = data.evaluations[name], variant_color(data, name)
        face = "white" if data.variant(name)["boosting"] else color
        _row(left, place, result["fid"], result["fid_ci95"], color, face)
        if name != REFERENCE:
            _row(right, place, result["delta_fid_vs_edm"], result["delta_fid_ci95"], color, face, sign=True)
    if data.reference["fid"] is not None:
        left.axvline(data.reference["fid"], color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
    right.axvline(0, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
    left.set_yticks(range(len(names)), labels=names)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlabel(f"{label}, logarithmic")
    right.set_xlabel(f"difference from {REFERENCE} (paired), logarithmic beyond ±{scientific(linear)}")
    left.set_title("lower is better", fontweight="normal", color=GREY)
    right.set_title(f"← better than {REFERENCE}    worse →", fontweight="normal", color=GREY)
    _plain_ticks(left, right, linear)
    figure.legend(handles=_variant_legend(), loc="outside lower center", ncols=5)
    edm = data.reference
    return finish(
        figure,
        data,
        "fid.png",
        f"{label} of every variant",
        f"Left: {label} against {reference_text(edm)}, on a logarithmic axis; "
        f"dashed: {REFERENCE}, no guidance. Right: the paired difference from {REFERENCE}, on an axis that is "
        f"linear between -{scientific(linear)} and {scientific(linear)} and logarithmic beyond. "
        f"{sample_text(data)} Bars and [brackets]: 95 % interval, point ± 1.96 sd by the influence function "
        "over generated samples. They cover sampling noise only, with all networks and the reference fixed; "
        "another training seed would move the points.",
        f"Dot plot of {label} with intervals, one row for each variant, its numbers printed at the right.",
    )


def _row(
    axes: Axes,
    place: int,
    value: float | None,
    bounds: Sequence[float] | None,
    color: str,
    face: str,
    sign: bool = False,
) -> None:
    if value is None:
        return
    if bounds is not None:
        axes.plot(bounds, [place, place], color=color, linewidth=1.4, marker="|", markersize=8, markeredgewidth=1.4)
    axes.plot(value, place, marker="o", markersize=4, color=color, markerfacecolor=face, markeredgewidth=1.1)
    axes.text(
        1.02,
        place,
        estimate(value, bounds, sign=sign),
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color=color,
    )


def _linear_range(data: ReportData) -> float:
    """The power of ten at or below the usual size of a difference: most points stay on the linear part."""
    sizes = [abs(result["delta_fid_vs_edm"] or 0.0) for result in data.evaluations.values()]
    moved = [size for size in sizes if size > 0 and math.isfinite(size)]
    return float(10.0 ** math.floor(math.log10(np.median(moved)))) if moved else 1.0


def _plain_ticks(left: Axes, right: Axes, linear: float) -> None:
    """1, 2, 5 instead of powers of ten, which would need the mathematics that names must not trigger."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    reach = max(abs(bound) for bound in right.get_xlim())
    decades = max(0, math.ceil(math.log10(reach / linear)))
    powers = [linear * 10.0**decade * part for decade in range(decades + 1) for part in (1, 3)]
    ticks = [0.0, *(side * power for power in powers if power <= reach for side in (-1, 1))]
    low, high = right.get_xlim()
    right.xaxis.set_major_locator(FixedLocator(sorted(tick for tick in ticks if low <= tick <= high)))
    right.set_xlim(low, high)
    low, high = left.get_xlim()
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = [part * 10.0**decade for decade in range(first, last + 1) for part in (1, 2, 5)]
    within = [mark for mark in marks if low <= mark <= high]
    left.xaxis.set_major_locator(FixedLocator(within) if len(within) > 2 else MaxNLocator(nbins=5))
    left.set_xlim(low, high)
    for axes, sign in ((left, ""), (right, "+")):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _, sign=sign: f"{x:{sign if x else ''}g}"))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)


def variant_color(data: ReportData, name: str) -> str:
    """The colour of a variant: none, one discriminator, a proper ensemble, or clipped raw logits."""
    variant = data.variant(name)
    if not variant["members"]:
        return INK
    if variant["rule"] == "clipped_logit_mean":
        return RED
    return BLUE if len(variant["members"]) == 1 else GREEN


def _variant_legend() -> list[Line2D]:
    from matplotlib.lines import Line2D

    kinds = [
        (INK, INK, "no guidance"),
        (BLUE, BLUE, "one discriminator"),
        (GREEN, GREEN, "ensemble"),
        (RED, RED, "clipped raw logits"),
        (GREY, "white", "hollow: with boosting"),
    ]
    return [
        Line2D(
            [],
            [],
            color=edge,
            markerfacecolor=face,
            marker="o",
            linestyle="none",
            markersize=5,
            markeredgewidth=1.1,
            label=label,
        )
        for edge, face, label in kinds
    ]
