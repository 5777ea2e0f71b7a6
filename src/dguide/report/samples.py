"""Figures of images: the forward and backward processes (Fig. 1), and samples side by side (Fig. 3)."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from dguide.report.figures import BLUE, GREY, INK, finish, new_figure, variant_color
from dguide.report.format import variant_text
from dguide.report.gather import ReportData, Trajectory

FORWARD_NOISE_SEED = 0  # of the drawing alone; no result depends on it
RELEASED_SIGMA_DATA = 0.5  # of EDM's networks, whose profile names only their file
LEVELS = 8


def visible(x: np.ndarray, sigma: float, sigma_data: float) -> np.ndarray:
    """A noisy state (H, W, C) in [0, 1], scaled to the data's spread: c_in of Karras et al. 2022 times sigma_data."""
    scale = sigma_data / math.sqrt(sigma_data**2 + sigma**2)
    return np.clip(x.astype(np.float64) * scale / 2 + 0.5, 0.0, 1.0)


def process_figure(data: ReportData) -> bytes:
    """Fig. 1: noising a real image, one sample's backward process with and without guidance, and their difference."""
    unguided = data.trajectories[data.baseline]
    # Variants with another number of steps have other noise levels.
    alike = [name for name, path in data.trajectories.items() if np.array_equal(path.sigma, unguided.sigma)]
    guided = next((name for name in alike if data.settings["variants"][name]["members"]), None)
    sigma_data = float(data.settings["score"].get("sigma_data", RELEASED_SIGMA_DATA))
    chosen = np.unique(np.linspace(0, len(unguided.sigma) - 1, LEVELS).round().astype(int))[::-1]
    sigmas = unguided.sigma[chosen]
    real = data.real[0].astype(np.float64) / 127.5 - 1
    noise = np.random.default_rng(FORWARD_NOISE_SEED).standard_normal(real.shape)
    rows = [("forward →\nreal image + σ × noise", INK, [visible(real + s * noise, s, sigma_data) for s in sigmas])]
    sample = 0
    if guided:  # the sample whose final image guidance changes most
        change = np.abs(data.trajectories[guided].states[-1].astype(np.float64) - unguided.states[-1])
        sample = int(change.mean(axis=(1, 2, 3)).argmax())
    index = int(data.reference["seed_start"]) + sample
    rows += _backward(unguided, sample, chosen, sigma_data, f"sample {index:,}", GREY)
    if guided:
        rows += _backward(data.trajectories[guided], sample, chosen, sigma_data, f"guided: {guided}", BLUE)
        changes = [(after - before).mean(axis=-1) for before, after in zip(rows[2][2], rows[4][2], strict=True)]
        scale = max(float(np.abs(change).max()) for change in changes)
        red_blue = [colormaps["RdBu_r"](0.5 + change / (2 * scale or 1))[..., :3] for change in changes]
        rows.append((f"guided minus unguided\nestimate, colours ±{scale:.2g}", INK, red_blue))
    figure = new_figure(1.05 * len(sigmas) + 1.9, 1.0 * len(rows) + 0.45, w_pad=0.02)
    panels = figure.subplots(len(rows), len(sigmas), squeeze=False)
    for axes, level in zip(panels[0], chosen, strict=True):
        text = f"σ {unguided.sigma[level]:.2g}\nτ {unguided.tau[level]:.2f}"
        axes.set_title(text, fontweight="normal")
    for row, (title, color, images) in zip(panels, rows, strict=True):
        _row_title(row[0], title, color)
        for axes, image in zip(row, images, strict=True):
            show(axes, image)
    return finish(figure, data)


def _backward(
    path: Trajectory, sample: int, chosen: np.ndarray, sigma_data: float, title: str, color: str
) -> list[tuple[str, str, list[np.ndarray]]]:
    states = [visible(path.states[i, sample], float(path.sigma[i]), sigma_data) for i in chosen]
    # At sigma = 0 the sample is its own estimate.
    estimates = [path.denoised[i, sample] if i < len(path.denoised) else path.states[i, sample] for i in chosen]
    return [
        (f"← backward, {title}\nstate x", color, states),
        ("estimate D(x; σ)", color, [visible(image, 0.0, sigma_data) for image in estimates]),
    ]


def _row_title(axes: Axes, title: str, color: str) -> None:
    axes.set_ylabel(title, rotation=0, ha="right", va="center", labelpad=10, color=color, fontsize=8.5)


def show(axes: Axes, image: np.ndarray) -> None:
    """Draw an image, (H, W, 1) in grey or (H, W, 3) in colour, uint8 or in [0, 1], without axes."""
    brightest = 255 if image.dtype == np.uint8 else 1
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=brightest, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def samples_figure(data: ReportData) -> bytes:
    """Fig. 3: the same noise turned into images without and with guidance."""
    names = data.settings["report"]["samples"]
    index = data.samples[data.baseline]["index"]
    spacing = dict.fromkeys(("wspace", "hspace", "w_pad", "h_pad"), 0.02)
    figure = new_figure(0.82 * len(index) + 2.2, 0.86 * len(names) + 0.4, **spacing)
    panels = figure.subplots(len(names), len(index), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        what = textwrap.fill(variant_text(data.settings["variants"][name], data.settings["sampler"]), 26)
        _row_title(row[0], f"{name}\n{what}", variant_color(data, name))
        for axes, image in zip(row, data.samples[name]["images"], strict=True):
            show(axes, image)
    for axes, sample in zip(panels[0], index, strict=True):
        axes.set_title(f"{sample}", fontweight="normal", fontsize=7)
    return finish(figure, data)
