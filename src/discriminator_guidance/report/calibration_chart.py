"""Reliability diagrams: how often a picture was real, against the probability a discriminator gave it."""

from __future__ import annotations

import math

import numpy as np

from discriminator_guidance.report.drawing import GREY, Picture, finish, new_figure, styled
from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.wording import count, scientific

GRID = 6  # members in Table 2; more of them are drawn as many abreast
MIN_PAIRS = 10  # fewer pictures make a fraction that is mostly chance


@styled
def calibration_figure(data: ReportData) -> Picture | None:
    """Reliability of every member's probability, one line for each noise level of the test grid."""
    import matplotlib
    from matplotlib.lines import Line2D

    members = data.members
    if not members:
        return None
    times = sorted({float(time) for member in members for time in member.calibration["time"]})
    # By rank: half of the times are below 0.1, where a scale of tau itself would give them one colour.
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.04, 1.0, len(times)))
    columns = min(3 if len(members) <= GRID else GRID, len(members))
    rows = math.ceil(len(members) / columns)
    figure = new_figure(3.0 * columns + 1.2, 2.9 * rows + 0.3)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, member in zip(panels.flat, members, strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 2)))
        for time, shade in zip(times, shades, strict=True):
            curve = member.calibration
            filled = curve[(curve["time"] == time) & (curve["count"] >= MIN_PAIRS)]
            area = 6 + 40 * filled["count"] / max(1, int(curve["count"].max()))
            axes.plot(filled["mean_probability"], filled["fraction_real"], color=shade, linewidth=1.2)
            axes.scatter(filled["mean_probability"], filled["fraction_real"], s=area, color=shade, linewidths=0)
        axes.set_title(member.name.upper())
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    for axes in panels.flat[len(members) :]:
        axes.set_visible(False)
    figure.supxlabel("mean predicted probability of real", fontsize=9)
    figure.supylabel("fraction real", fontsize=9)
    handles = [
        Line2D([], [], color=shade, marker="o", markersize=5, label=scientific(float(f"{time:.2g}")))
        for time, shade in zip(times, shades, strict=True)
    ]
    figure.legend(
        handles=handles[::-1], loc="outside right center", title="VP time τ\n(noise grows\nupwards)", alignment="left"
    )
    return finish(figure, data, "calibration.png", "Calibration by noise level", _caption(data), _ALT)


_ALT = "Reliability diagrams, one panel for each discriminator, one line for each noise level."


def _caption(data: ReportData) -> str:
    lines = [int(n) for member in data.members for n in member.calibration.groupby("time")["count"].sum()]
    bins = [int(n) for member in data.members for n in member.calibration["count"]]
    thin = [n for n in bins if 0 < n < MIN_PAIRS]
    low, high = count(min(lines)), count(max(lines))
    return (
        "How often a picture was real, against the probability the discriminator gave it; on the dashed line "
        "the two agree. One line for each VP time of the test grid, coloured by its rank; the area of a dot "
        f"grows with the pairs of picture and time in its bin. N = {low if low == high else f'{low} to {high}'} "
        f"pairs for each line, from {count(data.members[0].metrics['n_test'])} test images (real and unguided "
        f"fakes, the same for all members), one training run each. Bins of fewer than {MIN_PAIRS} pairs are "
        f"not drawn: {count(len(thin))} of the {count(sum(n > 0 for n in bins))} filled ones, with "
        f"{count(sum(thin))} of {count(sum(bins))} pairs. No intervals: small dots are few pairs and scatter."
    )
