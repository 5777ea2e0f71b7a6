"""Line charts: training curves over the epochs, and log ratios along the sampler's steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from discriminator_guidance.report.drawing import (
    BLUE,
    GREY,
    RED,
    Picture,
    finish,
    new_figure,
    sample_text,
    styled,
)
from discriminator_guidance.report.fid_chart import variant_color
from discriminator_guidance.report.gather import RATIO_PANELS, ReportData
from discriminator_guidance.report.wording import count, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ABREAST = 6  # members in a row of panels: the grid of Table 2


@styled
def curves_figure(data: ReportData) -> Picture | None:
    """Fig. 2: training and validation loss and accuracy of every member over its epochs."""
    members = data.members
    if not members:
        return None
    columns = min(ABREAST, len(members))
    bands = math.ceil(len(members) / columns)  # a family of many members is drawn six abreast
    figure = new_figure(max(4.0, 2.05 * columns + 0.4), 4.6 * bands)
    panels = figure.subplots(2 * bands, columns, sharex="col" if bands == 1 else False, sharey="row", squeeze=False)
    for place in range(len(members), bands * columns):
        for row in (-2, -1):
            panels[row, place % columns].set_visible(False)
    for place, member in enumerate(members):
        band, column = divmod(place, columns)
        for row, (quantity, chance) in enumerate((("loss", math.log(2)), ("accuracy", 0.5)), start=2 * band):
            axes: Axes = panels[row, column]
            axes.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="coin toss")
            marker = "o" if len(member.history) == 1 else None
            for split, color, dash in (("train", BLUE, "-"), ("validation", RED, (0, (4, 1.5)))):
                values = member.history[f"{split}_{quantity}"]
                axes.plot(member.history["epoch"], values, color=color, linestyle=dash, marker=marker, label=split)
        best = member.metrics["best_epoch"]
        panels[2 * band, column].plot(
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
        panels[2 * band, column].set_title(member.name.upper())
        panels[2 * band + 1, column].set_xlabel("epoch")
        panels[2 * band + 1, column].xaxis.get_major_locator().set_params(integer=True, nbins=4)
    for band in range(bands):
        panels[2 * band, 0].set_ylabel("BCE (nats)")
        panels[2 * band + 1, 0].set_ylabel("accuracy")
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
        color = variant_color(data, name)
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
