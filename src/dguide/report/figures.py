"""Charts: FID of every variant, training curves, calibration, log ratios along the sampler, and speed."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from dguide.report import published
from dguide.report.format import estimate, scientific
from dguide.report.gather import ReportData
from discriminator_guidance.sampling.guidance import LOG_RATIO_BOUND

# Okabe and Ito's palette: distinct for colour-blind readers.
BLUE, GREEN, RED = "#0072B2", "#00664B", "#A83F00"  # at least 4.5 to 1 on white, where they colour text
INK, GREY = "#1c2126", "#5b6570"
DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))
MIN_PAIRS = 10  # fewer images make a fraction that is mostly chance


def new_figure(width: float, height: float, **spacing: Any) -> Figure:
    """An empty figure in inches with a constrained layout; pyplot's global state stays untouched."""
    figure = Figure(figsize=(width, height), facecolor="white", layout=ConstrainedLayoutEngine(**spacing))
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, data: ReportData) -> bytes:
    """A figure as PNG, the note on the data below."""
    return png(figure, data.settings["report"]["dpi"], data.note)


def png(figure: Figure, dpi: int, note: str) -> bytes:
    """A figure as PNG, a note below; 256 colours unless images are shown, a third of the size."""
    if note:
        width = figure.get_figwidth()
        text = textwrap.fill(note, max(1, int(13 * width)))
        figure.text(0.08 / width, -0.02, text, va="top", fontsize=8.0, color=GREY)
    stream, packed, box = io.BytesIO(), io.BytesIO(), "tight" if note else None
    figure.savefig(stream, dpi=dpi, bbox_inches=box, metadata={"Software": None})
    if any(axes.images for axes in figure.axes):
        return stream.getvalue()
    with Image.open(stream) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    return packed.getvalue()


def variant_color(data: ReportData, name: str) -> str:
    """Black: no guidance; blue: one discriminator; green: ensemble; red: clipped raw logits."""
    variant = data.settings["variants"][name]
    if variant["rule"] == "clipped_logit_mean":
        return RED
    return GREEN if len(variant["members"]) > 1 else BLUE if variant["members"] else INK


def fid_figure(data: ReportData) -> bytes:
    """FID of every variant and its paired difference from no guidance, each with its 95 % interval."""
    names = list(data.evaluations)
    figure = new_figure(11.0, 1.6 + 0.32 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    moved = [size for evaluation in data.evaluations.values() if (size := abs(evaluation["delta_fid"])) > 0]
    linear = 10.0 ** math.floor(math.log10(float(np.median(moved)))) if moved else 1.0
    left.set_xscale("log", nonpositive="clip")
    right.set_xscale("symlog", linthresh=linear, linscale=1.0)
    for row, name in enumerate(names):
        evaluation, color = data.evaluations[name], variant_color(data, name)
        face = "white" if data.settings["variants"][name]["boosting"] else color
        _interval(left, row, evaluation["fid"], (evaluation["fid_low"], evaluation["fid_high"]), color, face)
        if name != data.baseline:
            difference = data.differences[name, data.baseline]
            _interval(right, row, difference.value, difference.bounds, color, face, sign=True)
    left.axvline(data.reference["fid"], color=GREY, linewidth=1, linestyle=DASHED, zorder=0)
    right.axvline(0, color=GREY, linewidth=1, linestyle=DASHED, zorder=0)
    left.set_yticks(range(len(names)), labels=names)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlabel(f"{data.label()}, logarithmic")
    right.set_xlabel(f"difference from {data.baseline} (paired), logarithmic beyond ±{scientific(linear)}")
    left.set_title("lower is better", fontweight="normal", color=GREY)
    right.set_title(f"← better than {data.baseline}    worse →", fontweight="normal", color=GREY)
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axes in (left, right):
        # Plain numbers, because powers of ten would need the mathematics that names must not trigger.
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="y", length=0)
    kinds = ((INK, "no guidance"), (BLUE, "one discriminator"), (GREEN, "ensemble"), (RED, "clipped raw logits"))
    handles = [_dot(color, color, label) for color, label in kinds] + [_dot(GREY, "white", "hollow: with boosting")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return finish(figure, data)


def _interval(
    axes: Axes, row: int, value: float, bounds: Sequence[float], color: str, face: str, sign: bool = False
) -> None:
    low, high = bounds
    axes.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="o", ms=4, capsize=3, color=color, mfc=face)
    text = estimate(value, bounds, sign=sign)
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=color)


def _dot(edge: Any, face: Any, label: str) -> Line2D:
    return Line2D([], [], color=edge, markerfacecolor=face, marker="o", ls="none", ms=5, mew=1.1, label=label)


def curves_figure(data: ReportData) -> bytes | None:
    """Fig. 2: training and validation loss and accuracy of every member over its epochs."""
    members = [member for member in data.members if len(member.history)]
    if not members:
        return None
    bands = math.ceil(len(members) / 6)
    columns = math.ceil(len(members) / bands)
    figure = new_figure(max(4.0, 2.05 * columns + 0.4), 4.6 * bands)
    panels = figure.subplots(2 * bands, columns, sharey="row", squeeze=False)
    for axes in panels[-2:, len(members) - (bands - 1) * columns :].flat:
        axes.set_visible(False)
    for index, member in enumerate(members):
        band, column = divmod(index, columns)
        kind = data.settings["members"][member.name]["published"]
        loss, accuracy = panels[2 * band, column], panels[2 * band + 1, column]
        for axes, quantity, chance in ((loss, "loss", math.log(2)), (accuracy, "accuracy", 0.5)):
            axes.axhline(chance, color=GREY, linewidth=1, linestyle=DOTTED, label="coin toss")
            marker = "o" if len(member.history) == 1 else None
            for split, color, dash in (("train", BLUE, "-"), ("validation", RED, (0, (4, 1.5)))):
                values = member.history[f"{split}_{quantity}"]
                axes.plot(member.history["epoch"], values, color=color, linestyle=dash, marker=marker, label=split)
                key = quantity if split == "train" else f"{quantity}_val"
                theirs = published.CURVES.get(kind, {}).get(key, [])
                epochs = np.linspace(1 / max(1, len(theirs)), 1, len(theirs)) * len(member.history)
                axes.plot(epochs, theirs, color=color, linestyle=dash, linewidth=0.8, alpha=0.45, zorder=1)
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=4)
        best = (member.metrics["best_epoch"], member.metrics["best_validation_loss"])
        loss.plot(*best, "o", ms=6, mfc="white", mec=RED, mew=1.5, ls="none", label="lowest validation loss")
        loss.set_title(member.name.upper())
        accuracy.set_xlabel("epoch")
    for axes, label in zip(panels[:, 0], ("BCE (nats)", "accuracy") * bands, strict=True):
        axes.set_ylabel(label)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return finish(figure, data)


def calibration_figure(data: ReportData) -> bytes | None:
    """Reliability of every member's probability, one line for each noise level of the test grid."""
    members = data.members
    if not members:
        return None
    times = sorted({float(time) for member in members for time in member.calibration["time"]})
    # By rank: half of the times are below 0.1, where a scale of tau itself would give them one colour.
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.04, 1.0, len(times)))
    rows = math.ceil(len(members) / 4)
    columns = math.ceil(len(members) / rows)
    figure = new_figure(3.0 * columns + 1.2, 2.9 * rows + 0.3)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, member in zip(panels.flat, members, strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHED)
        curve = member.calibration
        for time, shade in zip(times, shades, strict=True):
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
    labels = [scientific(float(f"{time:.2g}")) for time in times]
    handles = [_dot(shade, shade, label) for shade, label in zip(shades, labels, strict=True)][::-1]
    title = "VP time τ\n(noise grows\nupwards)"
    figure.legend(handles=handles, loc="outside right center", title=title, alignment="left")
    return finish(figure, data)


def guidance_figure(data: ReportData) -> bytes | None:
    """Bands of the log ratio that guided the sampler, over its steps."""
    ratios = {name: data.trajectories[name].log_ratio for name in data.settings["report"]["log_ratios"]}
    names = [name for name, ratio in ratios.items() if np.isfinite(ratio).any()]
    if not names:
        return None
    figure = new_figure(max(4.5, 2.7 * len(names) + 0.6), 3.1)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    limit = LOG_RATIO_BOUND
    for axes, name in zip(panels, names, strict=True):
        color, finite = variant_color(data, name), np.isfinite(ratios[name])
        inside = np.flatnonzero(finite.any(axis=1))
        steps, active = inside + 1, np.where(finite, ratios[name], np.nan)[inside]
        bands = np.nanpercentile(active, [5, 25, 50, 75, 95], axis=1)
        axes.fill_between(steps, bands[0], bands[4], color=color, alpha=0.16, linewidth=0)
        axes.fill_between(steps, bands[1], bands[3], color=color, alpha=0.30, linewidth=0)
        axes.plot(steps, bands[2], color=color)
        axes.axhline(0, color=GREY, linewidth=1)
        for bound in (-limit, limit):
            axes.axhline(bound, color=GREY, linewidth=1, linestyle=DOTTED)
        axes.set(title=name, xlabel="sampler step", xlim=(0.5, len(finite) + 0.5), ylim=(-limit * 1.12, limit * 1.12))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    panels[0].set_ylabel("log density ratio")
    return finish(figure, data)


def speed_figure(data: ReportData) -> bytes | None:
    """How many times as fast as the baseline each kind of work is; nothing without a benchmark."""
    rows = data.benchmark
    if not rows:
        return None
    figure = new_figure(7.6, 0.31 * len(rows) + 1.0)
    axes: Axes = figure.subplots()
    bars = axes.barh([row["name"] for row in rows], [row["ratio"] for row in rows], color=BLUE, height=0.5)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the baseline")
    return finish(figure, data)
