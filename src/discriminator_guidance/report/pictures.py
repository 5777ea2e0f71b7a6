"""Drawings from the sampler's own states: the two processes (Fig. 1) and samples side by side (Fig. 3)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.drawing import (
    BLUE,
    GREY,
    INK,
    Picture,
    finish,
    new_figure,
    sample_text,
    styled,
)
from discriminator_guidance.report.gather import PICTURE_ROWS, REFERENCE, ReportData, Trajectory
from discriminator_guidance.report.wording import count, variant_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORWARD_NOISE_SEED = 0  # the forward row's noise is a drawing, no result depends on it
RELEASED_SIGMA_DATA = 0.5  # of EDM's networks, whose profile names only their file
LEVELS = 8
BETA_MIN, BETA_MAX = 0.1, 20.0


def vp_time(sigma: float) -> float:
    """The VP time of an EDM noise level.

    Args:
        sigma: noise level, >= 0.

    Returns:
        tau with sigma^2 = exp(beta_min tau + (beta_max - beta_min) tau^2 / 2) - 1.

    Source: Song et al. 2021, Eq. 33 (variance-preserving SDE), solved for the time.
    """
    slope = BETA_MAX - BETA_MIN
    return (math.sqrt(BETA_MIN**2 + 2 * slope * math.log1p(sigma**2)) - BETA_MIN) / slope


def visible(x: NDArray[np.floating], sigma: float, sigma_data: float) -> NDArray[np.float64]:
    """A noisy state scaled to the data's spread, so that it can be seen at every noise level.

    Args:
        x: (H, W, C) state, unscaled, [-1, 1] plus noise of size sigma.
        sigma: its noise level.
        sigma_data: spread of the data.

    Returns:
        (H, W, C) float64 in [0, 1].

    Source: the c_in of Karras et al. 2022, Table 1, times sigma_data: the identity at sigma = 0.
    """
    scale = sigma_data / math.sqrt(sigma_data**2 + sigma**2)
    return np.clip(x.astype(np.float64) * scale / 2 + 0.5, 0.0, 1.0)


@styled
def process_figure(data: ReportData) -> Picture | None:
    """Fig. 1: noising a real image, one sample's way back with and without guidance, and their difference."""
    edm = data.trajectories[REFERENCE]
    guided = next((name for name in data.trajectories if data.variant(name)["members"]), None)
    sigma_data = float(data.settings["score"].get("sigma_data", RELEASED_SIGMA_DATA))
    chosen = np.unique(np.linspace(0, len(edm.sigma) - 1, LEVELS).round().astype(int))[::-1]
    sigmas = edm.sigma[chosen]
    real = data.real[0].astype(np.float64) / 127.5 - 1
    noise = np.random.default_rng(FORWARD_NOISE_SEED).standard_normal(real.shape)
    rows = [("forward", "real image + σ × noise", [visible(real + s * noise, s, sigma_data) for s in sigmas])]
    other, sample = (data.trajectories[guided], 0) if guided is not None else (None, 0)
    if other is not None:
        if not np.array_equal(other.sigma, edm.sigma):
            raise InputError(
                f"the noise levels of {REFERENCE} in trajectory.npz of {guided}",
                "other noise levels",
                "run stage `guided` for both again (`dvc repro`)",
            )
        sample = most_changed(edm, other)
    rows += _backward_rows("without guidance", edm, sample, chosen, sigma_data)
    if other is not None:
        rows += _backward_rows(f"guided: {guided}", other, sample, chosen, sigma_data)
    height = len(rows) + (1 if other is not None else 0)
    figure = new_figure(1.05 * len(sigmas) + 1.9, 1.0 * height + 0.45, wspace=0.16, w_pad=0.02)
    panels = figure.subplots(height, len(sigmas), squeeze=False)
    for row, (title, subtitle, images) in enumerate(rows):
        for column, image in enumerate(images):
            show(panels[row, column], image)
            if row == 0:
                panels[row, column].set_title(
                    f"σ {sigmas[column]:.2g}\nτ {vp_time(sigmas[column]):.2f}", fontweight="normal"
                )
        color = INK if row == 0 else (BLUE if row > 2 else GREY)
        _row_title(panels[row, 0], f"{title}\n{subtitle}", color)
    guidance = ""
    if guided is not None:
        scale = _difference_row(list(panels[-1]), *(_brightness(rows[row][2]) for row in (4, 2)))
        guidance = (
            f" Rows 4 and 5: guided by {variant_text(data.variant(guided))} ({guided}). Row 6: the guided estimate "
            "minus the unguided one in units of the grey range (black 0, white 1), red where guidance brightens, "
            f"blue where it darkens, full colour at ±{scale:.2g}. Of the first {edm.states.shape[1]} samples, this "
            "is the one that guidance changes most: the largest mean absolute difference between the final pictures."
        )
    figure.draw_without_rendering()
    for row in range(len(rows)):
        if row in (0, 1, 3):
            _arrows(list(panels[row]), backward=row > 0)
    index = int(data.reference["seed_start"]) + sample
    return finish(
        figure,
        data,
        "fig1.png",
        "Fig. 1. Forward and guided backward process",
        "From our own sampler; read the forward row left to right, the backward rows right to left along "
        "the arrows. Row 1: a real image noised more and more. Rows 2 and 3: one sample's states on the "
        f"way back and the denoiser's estimate at each, without guidance.{guidance} Both ways start from the "
        f"same noise: run seed {data.reference['seed']}, sample index {count(index)}; N = 1 picture in each "
        "row, no interval. States are shown scaled by sigma_data / sqrt(sigma_data² + σ²), so that they "
        "stay visible; τ is the VP time of σ.",
        "Rows of pictures from clean (left) to pure noise (right): forward process, unguided and guided way back, "
        "and their difference.",
    )


def _backward_rows(
    title: str, trajectory: Trajectory, sample: int, chosen: NDArray[np.int64], sigma_data: float
) -> list[tuple[str, str, list[NDArray[np.float64]]]]:
    states = [visible(trajectory.states[i, sample], float(trajectory.sigma[i]), sigma_data) for i in chosen]
    last = len(trajectory.denoised)
    # At sigma = 0 the sample is its own estimate.
    estimates = [trajectory.denoised[i, sample] if i < last else trajectory.states[i, sample] for i in chosen]
    return [
        ("backward, " + title, "state x", states),
        ("", "estimate D(x; σ)", [visible(estimate, 0.0, sigma_data) for estimate in estimates]),
    ]


def most_changed(unguided: Trajectory, guided: Trajectory) -> int:
    """Which of the kept samples guidance changes most.

    Args:
        unguided: a trajectory.
        guided: another from the same noise.

    Returns:
        Place, from 0, of the largest mean absolute difference between the final pictures.
    """
    change = np.abs(guided.states[-1].astype(np.float64) - unguided.states[-1])
    return int(change.mean(axis=(1, 2, 3)).argmax())


def _brightness(images: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    return [image.mean(axis=-1) for image in images]


def _difference_row(
    panels: list[Axes], guided: list[NDArray[np.float64]], unguided: list[NDArray[np.float64]]
) -> float:
    changes = [after - before for after, before in zip(guided, unguided, strict=True)]
    scale = max(float(np.abs(change).max()) for change in changes)
    for axes, change in zip(panels, changes, strict=True):
        axes.imshow(change, cmap="RdBu_r", vmin=-(scale or 1.0), vmax=scale or 1.0, interpolation="nearest")
        _bare(axes)
    _row_title(panels[0], "guided minus unguided\nestimate D(x; σ)", INK)
    return scale


def _row_title(axes: Axes, title: str, color: str) -> None:
    axes.set_ylabel(title, rotation=0, ha="right", va="center", labelpad=10, color=color, fontsize=8.5)


def _arrows(panels: list[Axes], backward: bool) -> None:
    from matplotlib.patches import FancyArrowPatch

    figure = panels[0].figure
    for left, right in pairwise(panels):
        boxes = [axes.get_position() for axes in (left, right)]
        y = (boxes[0].y0 + boxes[0].y1) / 2
        ends = [(boxes[0].x1 + 0.002, y), (boxes[1].x0 - 0.002, y)]
        figure.add_artist(
            FancyArrowPatch(
                *(reversed(ends) if backward else ends),
                transform=figure.transSubfigure,
                arrowstyle="-|>",
                mutation_scale=9,
                linewidth=1.2,
                color=INK,
                shrinkA=0,
                shrinkB=0,
            )
        )


def show(axes: Axes, image: NDArray[np.float64] | NDArray[np.uint8]) -> None:
    """Draw one picture, (H, W, 1) in grey or (H, W, 3) in colour, uint8 or in [0, 1], without axes."""
    whole = 255 if image.dtype == np.uint8 else 1
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=whole, interpolation="nearest")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


@styled
def samples_figure(data: ReportData) -> Picture | None:
    """Fig. 3: the same noise turned into pictures without and with guidance."""
    names = [name for name in PICTURE_ROWS if name in data.samples]
    index = data.samples[REFERENCE].index
    for name in names:
        if not np.array_equal(data.samples[name].index, index):
            raise InputError(
                f"the sample indices of {REFERENCE} in samples.npz of {name}",
                "other indices",
                "run stage `guided` for both again (`dvc repro`)",
            )
    figure = new_figure(
        0.82 * len(index) + 2.2, 0.86 * len(names) + 0.4, wspace=0.02, hspace=0.02, w_pad=0.02, h_pad=0.02
    )
    panels = figure.subplots(len(names), len(index), squeeze=False)
    for row, name in enumerate(names):
        for column, image in enumerate(data.samples[name].images):
            show(panels[row, column], image)
        color = GREY if name == REFERENCE else BLUE
        panels[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8, color=color, fontsize=8.5)
    for column, sample in enumerate(index):
        panels[0, column].set_title(f"{sample}", fontweight="normal", fontsize=7)
    described = "; ".join(f"{name}: {variant_text(data.variant(name))}" for name in names)
    return finish(
        figure,
        data,
        "fig3.png",
        "Fig. 3. The same noise without and with guidance",
        f"A column is one sample index (printed above, run seed {data.reference['seed']}), hence one "
        f"starting noise; a row is one variant. {described}. The first {len(index)} of the samples, not "
        f"selected; no interval belongs to single pictures. Behind the numbers stand {sample_text(data)}",
        "Grid of generated pictures; rows are variants, columns share their starting noise.",
    )
