"""Fig. 1 to 3, FIDs and log ratios, as matplotlib figures."""

import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from dguide.report.format import estimate, variant_text
from dguide.report.gather import PUBLISHED, Record, ReportData
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP

# Okabe and Ito's palette: distinct for colour-blind readers, with 4 to 1 or more on white and on dark pages.
BLUE, GREEN, RED, GREY = "#007acc", "#008662", "#c85410", "#76787b"
KINDS = {"no guidance": GREY, "one discriminator": BLUE, "ensemble": GREEN, "the clipped-logit rule": RED}
LEVELS = 8  # of noise in Fig. 1
LOG_RATIO_BOUND = math.log1p(-PROBABILITY_CLIP) - math.log(PROBABILITY_CLIP)
LINEAR = 0.1  # differences in FID below which their axis is linear

Row = tuple[str, str, list[np.ndarray]]  # of images: its text, the colour of the text, images (H, W, C)


def png(figure: Figure, dpi: int, note: str) -> bytes:
    """A figure as PNG, a note below."""
    if note:
        figure.text(0.01, -0.02, note, va="top", fontsize=8, color=GREY, wrap=True)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, bbox_inches="tight" if note else None, metadata={"Software": None})
    return stream.getvalue()


def variant_color(data: ReportData, name: str) -> str:
    """The colour of the kind of a variant."""
    variant = data.settings["variants"][name]
    if variant["rule"] == "clipped_logit_mean":
        return RED
    return GREEN if len(variant["members"]) > 1 else BLUE if variant["members"] else GREY


def fid_figure(data: ReportData) -> Figure:
    """FID of every variant and its paired difference from no guidance, each with its 95 % interval."""
    figure = Figure(figsize=(11.0, 1.6 + 0.4 * len(data.evaluations)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_xscale("log", nonpositive="clip")
    right.set_xscale("symlog", linthresh=LINEAR)
    for row, (name, evaluation) in enumerate(data.evaluations.items()):
        color, values = variant_color(data, name), np.array(evaluation["fid_values"])  # of each training seed
        changes = values - np.array(data.evaluations[data.baselines[name] or name]["fid_values"])
        for axes, keys, seeds in (
            (left, ("fid", "fid_low", "fid_high"), values),
            (right, ("delta_fid", "delta_low", "delta_high"), changes),
        ):
            value, *bounds = (evaluation[key] for key in keys)
            if axes is left or name != data.baseline:
                spread = [[value - bounds[0]], [bounds[1] - value]]
                axes.errorbar(value, row, xerr=spread, fmt="o", ms=4, capsize=3, color=color)
                if len(seeds) > 1:
                    axes.plot(seeds, np.full(len(seeds), row + 0.3), "|", ms=5, color=color)
                text, place = estimate(value, bounds, sign=axes is right), axes.get_yaxis_transform()
                axes.text(1.02, row, text, transform=place, va="center", fontsize=8, color=color)
    labels = [f"{name}\n{textwrap.shorten(variant_text(data.settings, name), 42)}" for name in data.evaluations]
    left.set_yticks(range(len(data.evaluations)), labels=labels, fontsize=8)
    left.invert_yaxis()
    left.set(xlabel=f"{data.fid}, logarithmic", title="lower is better")
    label = f"difference from {data.baseline_text} (paired), logarithmic beyond ±{LINEAR}"
    right.set(xlabel=label, title="← better    worse →")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axes, unguided in ((left, data.reference["fid"]), (right, 0)):
        axes.axvline(unguided, color=GREY, linewidth=1, linestyle="--", zorder=0)
        axes.xaxis.set_major_formatter("{x:g}")  # powers of ten would need the mathematics that names must not trigger
        axes.xaxis.set_minor_locator(NullLocator())
    drawn = {variant_color(data, name) for name in data.evaluations}
    handles = [Line2D([], [], color=c, marker="o", ls="none", label=kind) for kind, c in KINDS.items() if c in drawn]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def curves_figure(data: ReportData) -> Figure | None:
    """Fig. 2: training and validation loss and accuracy of every member over its epochs; thin, the reproduction's."""
    histories = {name: history for name, history in data.histories.items() if len(history)}
    if not histories:
        return None
    figure = Figure(figsize=(9.0, 1.6 * len(histories) + 0.6), layout="constrained")
    panels = figure.subplots(len(histories), 2, sharey="col", squeeze=False)
    for (loss, accuracy), (name, history) in zip(panels, histories.items(), strict=True):
        theirs = PUBLISHED["curves"].get(data.settings["members"][name]["published"], {})
        for axes, quantity, chance in ((loss, "loss", math.log(2)), (accuracy, "accuracy", 0.5)):
            axes.axhline(chance, color=GREY, linewidth=1, linestyle=":", label="coin toss")
            for split, color in (("train", BLUE), ("validation", RED)):
                axes.plot(history["epoch"], history[f"{split}_{quantity}"], ".-", color=color, label=split)
                curve = theirs.get(f"{split}_{quantity}", [])
                epochs = np.linspace(1 / max(1, len(curve)), 1, len(curve)) * history["epoch"].max()
                axes.plot(epochs, curve, color=color, linewidth=0.8, alpha=0.45)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        best = (data.metrics[name]["best_epoch"], data.metrics[name]["best_validation_loss"])
        loss.plot(*best, "o", ms=6, mfc="white", mec=RED, label="lowest validation loss")
        loss.set_ylabel(name.upper(), fontweight="bold")
    panels[0, 0].set_title("BCE (nats)")
    panels[0, 1].set_title("accuracy")
    figure.supxlabel("epoch")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def guidance_figure(data: ReportData) -> Figure | None:
    """Bands of the log ratio that guided the sampler, over its steps."""
    ratios = {name: data.trajectories[name]["log_ratio"] for name in data.settings["report"]["log_ratios"]}
    ratios = {name: np.where(np.isfinite(r), r, np.nan) for name, r in ratios.items() if np.isfinite(r).any()}
    if not ratios:
        return None
    figure = Figure(figsize=(2.6 * len(ratios) + 1.2, 3.1), layout="constrained")
    (panels,) = figure.subplots(1, len(ratios), sharex=True, sharey=True, squeeze=False)
    for axes, (name, ratio) in zip(panels, ratios.items(), strict=True):
        color, (inside,) = variant_color(data, name), np.isfinite(ratio).any(axis=1).nonzero()
        low, lower, median, upper, high = np.nanpercentile(ratio[inside], [5, 25, 50, 75, 95], axis=1)
        axes.fill_between(inside + 1, low, high, color=color, alpha=0.16, linewidth=0)
        axes.fill_between(inside + 1, lower, upper, color=color, alpha=0.30, linewidth=0)
        axes.plot(inside + 1, median, color=color)
        for bound, style in ((0, "-"), (-LOG_RATIO_BOUND, ":"), (LOG_RATIO_BOUND, ":")):
            axes.axhline(bound, color=GREY, linewidth=1, linestyle=style)
        axes.set(title=name, xlabel="sampler step")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    panels[0].set_ylabel("log density ratio")
    return figure


def _image_rows(rows: Sequence[Row], titles: Sequence[str]) -> Figure:
    """Rows of images, each with its text on the left, below the titles of the columns; for light and dark pages."""
    figure = Figure((0.95 * len(titles) + 2.0, 0.95 * len(rows) + 0.45), layout="constrained", facecolor="none")
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontweight="normal", fontsize=8, color=GREY)
    for row, (text, color, images) in zip(panels, rows, strict=True):
        row[0].set_ylabel(text, rotation=0, ha="right", va="center", labelpad=10, color=color, fontsize=8.5)
        for axes, image in zip(row, images, strict=True):
            axes.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")  # grey is (H, W, 1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return figure


def samples_figure(data: ReportData) -> Figure | None:
    """Fig. 3: the same noise turned into images without and with guidance."""
    what = {name: f"{name}\n{textwrap.fill(variant_text(data.settings, name), 26)}" for name in data.samples}
    rows = [(what[name], variant_color(data, name), list(images)) for name, images in data.samples.items()]
    first = data.reference["seed_start"]
    return _image_rows(rows, [str(first + n) for n in range(len(rows[0][2]))]) if rows else None


def process_figure(data: ReportData) -> Figure:
    """Fig. 1: noising a real image, a sample's backward process with and without guidance, and their difference."""
    unguided, first = data.trajectories[data.baseline], data.reference["seed_start"]
    sigma, tau = unguided["sigma"], unguided["tau"]
    sigma_data = float(data.settings["score"].get("sigma_data", 0.5))  # that of EDM's released networks
    levels = np.unique(np.linspace(0, len(sigma) - 1, LEVELS).round().astype(int))[::-1]
    real = data.real.astype(np.float64) / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(real.shape)  # of the drawing alone
    noisy = [_visible(real + sigma[level] * noise, sigma[level], sigma_data) for level in levels]
    state, estimated = _backward(unguided, levels, sigma_data, f"sample {first:,}", GREY)
    rows: list[Row] = [("forward →\nreal image + σ × noise", GREY, noisy), state, estimated]
    for name, path in data.trajectories.items():
        if data.settings["variants"][name]["members"] and np.array_equal(path["sigma"], sigma):  # as many steps
            state, guided = _backward(path, levels, sigma_data, f"guided: {name}", BLUE)
            changes = [(new - old).mean(axis=-1) for old, new in zip(estimated[2], guided[2], strict=True)]
            scale = max(float(np.abs(change).max()) for change in changes)
            red_blue = [colormaps["RdBu_r"](0.5 + change / (2 * scale or 1))[..., :3] for change in changes]
            rows += [state, guided, (f"guided minus unguided\nestimate, colours ±{scale:.2g}", GREY, red_blue)]
            break
    return _image_rows(rows, [f"σ {sigma[level]:.2g}\nτ {tau[level]:.2f}" for level in levels])


def _backward(path: Record, levels: np.ndarray, sigma_data: float, title: str, color: str) -> list[Row]:
    """The first sample's states, and the denoiser's estimates; at sigma = 0 a sample is its own estimate."""
    states = [_visible(path["states"][level, 0], path["sigma"][level], sigma_data) for level in levels]
    denoised = np.concatenate([path["denoised"], path["states"][-1:]])
    estimates = [_visible(denoised[level, 0], 0.0, sigma_data) for level in levels]
    return [(f"← backward, {title}\nstate x", color, states), ("estimate D(x; σ)", color, estimates)]


def _visible(x: np.ndarray, sigma: float, sigma_data: float) -> np.ndarray:
    """A noisy state (H, W, C) in [0, 1], scaled to the data's spread: c_in of Karras et al. 2022 times sigma_data."""
    scale = sigma_data / math.sqrt(sigma_data**2 + sigma**2)
    return np.clip(x.astype(np.float64) * scale / 2 + 0.5, 0.0, 1.0)
