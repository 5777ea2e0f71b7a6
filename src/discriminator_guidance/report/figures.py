"""Charts: training curves, FID with intervals, calibration, and log ratios along the sampler's steps."""

from __future__ import annotations

import math
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
from discriminator_guidance.report.gather import RATIO_PANELS, REFERENCE, ReportData
from discriminator_guidance.report.wording import count, fid_label, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


@styled
def curves_figure(data: ReportData) -> Picture | None:
    """Fig. 2: training and validation loss and accuracy of every member over its epochs."""
    members = data.members
    if not members:
        return None
    figure = new_figure(max(4.0, 2.05 * len(members) + 0.4), 4.6)
    panels = figure.subplots(2, len(members), sharex="col", sharey="row", squeeze=False)
    for column, member in enumerate(members):
        for row, (quantity, chance) in enumerate((("loss", math.log(2)), ("accuracy", 0.5))):
            axes: Axes = panels[row, column]
            axes.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="coin toss")
            marker = "o" if len(member.history) == 1 else None
            for split, color, dash in (("train", BLUE, "-"), ("validation", RED, (0, (4, 1.5)))):
                values = member.history[f"{split}_{quantity}"]
                axes.plot(member.history["epoch"], values, color=color, linestyle=dash, marker=marker, label=split)
        best = member.metrics["best_epoch"]
        panels[0, column].plot(
            best,
            member.metrics["best_validation_loss"],
            marker="o",
            markersize=6,
            markerfacecolor="white",
            markeredgecolor=RED,
            markeredgewidth=1.5,
            linestyle="none",
            label="lowest validation loss",
        )
        panels[0, column].set_title(member.name.upper())
        panels[1, column].set_xlabel("epoch")
        panels[1, column].xaxis.get_major_locator().set_params(integer=True, nbins=4)
    panels[0, 0].set_ylabel("BCE (nats)")
    panels[1, 0].set_ylabel("accuracy")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    sizes = members[0].metrics
    settings = data.settings["discriminator"]["members"]
    seeds = ", ".join(f"{member.name.upper()} {settings[member.name]['seed']}" for member in members)
    return finish(
        figure,
        data,
        "fig2.png",
        "Fig. 2. Training the discriminators",
        "Binary cross-entropy and accuracy of each discriminator over its epochs, on N = "
        f"{count(sizes['n_train'])} training and {count(sizes['n_validation'])} validation images (real and "
        "unguided fakes, one split for all; validation on a common grid of noise levels). One training run "
        f"each, seeds: {seeds}. No intervals: the spread over training seeds is not measured here.",
        "Small panels, one column for each discriminator: loss above, accuracy below, training and validation.",
    )


@styled
def fid_figure(data: ReportData) -> Picture | None:
    """FID of every variant and its paired difference from the unguided one, each with its 95 % interval."""
    label, names = fid_label(data.fid_network), list(data.evaluations)
    figure = new_figure(9.6, 1.5 + 0.32 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    for place, name in enumerate(names):
        result, color = data.evaluations[name], _variant_color(data, name)
        face = "white" if data.variant(name)["boosting"] else color
        for axes, value, bounds in (
            (left, result["fid"], result["fid_ci95"]),
            (right, result["delta_fid_vs_edm"], result["delta_fid_ci95"]),
        ):
            if value is None or (axes is right and name == REFERENCE):
                continue
            if bounds is not None:
                axes.plot(bounds, [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot(value, place, marker="o", markersize=7, color=color, markerfacecolor=face, markeredgewidth=1.6)
    if data.reference["fid"] is not None:
        left.axvline(data.reference["fid"], color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
    right.axvline(0, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
    left.set_yticks(range(len(names)), labels=names)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlabel(label)
    right.set_xlabel(f"difference from {REFERENCE} (paired)")
    left.set_title("lower is better", fontweight="normal", color=GREY)
    right.set_title(f"← better than {REFERENCE}    worse →", fontweight="normal", color=GREY)
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    figure.legend(handles=_variant_legend(), loc="outside lower center", ncols=5)
    edm = data.reference
    return finish(
        figure,
        data,
        "fid.png",
        f"{label} of every variant",
        f"Left: {label} against {count(edm['reference_n'])} real training images; dashed: {REFERENCE}, no "
        f"guidance. Right: the paired difference from {REFERENCE}. {sample_text(data)} Bars: 95 % interval, "
        "point ± 1.96 sd by the influence function over generated samples. They cover sampling noise only, "
        "with all networks and the reference fixed; another training seed would move the points.",
        f"Dot plot of {label} with intervals, one row for each variant; the values stand in Table 3.",
    )


def _variant_color(data: ReportData, name: str) -> str:
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
            markeredgewidth=1.6,
            label=label,
        )
        for edge, face, label in kinds
    ]


@styled
def calibration_figure(data: ReportData) -> Picture | None:
    """Reliability of every member's probability, one line for each noise level."""
    import matplotlib
    from matplotlib.colors import Normalize

    members = data.members
    if not members:
        return None
    columns = min(3, len(members))
    rows = math.ceil(len(members) / columns)
    figure = new_figure(3.0 * columns + 1.0, 2.9 * rows + 0.3)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shades, scale = matplotlib.colormaps["viridis_r"], Normalize(0.0, 1.08)
    for axes, member in zip(panels.flat, members, strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 2)))
        for time, curve in member.calibration.dropna().groupby("time", sort=True):
            filled = curve[curve["count"] > 0]
            color = shades(scale(float(str(time))))
            area = 6 + 40 * filled["count"] / max(1, int(filled["count"].max() or 1))
            axes.plot(filled["mean_probability"], filled["fraction_real"], color=color, linewidth=1.2)
            axes.scatter(filled["mean_probability"], filled["fraction_real"], s=area, color=color, linewidths=0)
        axes.set_title(member.name.upper())
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    for axes in panels.flat[len(members) :]:
        axes.set_visible(False)
    figure.supxlabel("mean predicted probability of real", fontsize=9)
    figure.supylabel("fraction real", fontsize=9)
    mappable = matplotlib.cm.ScalarMappable(norm=scale, cmap=shades)
    bar = figure.colorbar(mappable, ax=panels, shrink=0.6, aspect=30, boundaries=np.linspace(0, 1, 101))
    bar.set_label("VP time τ (noise grows upwards)")
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1])
    bar.outline.set_visible(False)
    sizes = members[0].metrics
    return finish(
        figure,
        data,
        "calibration.png",
        "Calibration by noise level",
        "How often a picture was real, against the probability the discriminator gave it; on the dashed "
        "line the two agree. One line for each VP time of the test grid; the area of a dot grows with the "
        f"pairs in its bin. N = {count(sizes['n_test'])} test images (real and unguided fakes, the same for "
        "all members), one training run each. No intervals: small dots are few pairs and scatter.",
        "Reliability diagrams, one panel for each discriminator, one line for each noise level.",
    )


@styled
def guidance_figure(data: ReportData) -> Picture | None:
    """The log ratio that guided the sampler, over its steps."""
    ratios = {name: data.trajectories[name].log_ratio for name in RATIO_PANELS if name in data.trajectories}
    names = [name for name, ratio in ratios.items() if np.isfinite(ratio).any()]
    if not names:
        return None
    figure = new_figure(max(4.5, 2.7 * len(names) + 0.6), 3.1)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    clip = data.inputs.probability_clip
    bound = math.log((1 - clip) / clip)
    for axes, name in zip(panels, names, strict=True):
        color = _variant_color(data, name)
        inside = np.isfinite(ratios[name]).any(axis=1)
        steps = np.flatnonzero(inside) + 1
        active = np.where(np.isfinite(ratios[name]), ratios[name], np.nan)[inside]
        bands = np.nanpercentile(active, [5, 25, 50, 75, 95], axis=1)
        axes.fill_between(steps, bands[0], bands[4], color=color, alpha=0.16, linewidth=0)
        axes.fill_between(steps, bands[1], bands[3], color=color, alpha=0.30, linewidth=0)
        axes.plot(steps, bands[2], color=color)
        axes.axhline(0, color=GREY, linewidth=1)
        for limit in (-bound, bound):
            axes.axhline(limit, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_title(name)
        axes.set_xlabel("sampler step")
        axes.set_xlim(0.5, len(ratios[name]) + 0.5)
        axes.set_ylim(-bound * 1.12, bound * 1.12)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    panels[0].set_ylabel("log density ratio")
    return finish(
        figure,
        data,
        "guidance.png",
        "What guided the sampler",
        "The log density ratio log d / (1 - d) at the Euler slope of every step, from most noise (left) to "
        f"least: median, middle half and middle 90 % of the samples. Dotted: ± {bound:.1f}, where the "
        f"probability clip {scientific(clip)} pins it. Steps outside the time window have no guidance and "
        f"are not drawn. {sample_text(data)}",
        "Bands of log density ratios over the sampler's steps, one panel for each variant.",
    )
