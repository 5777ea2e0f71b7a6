"""Draw samples of docs/images, after `dvc repro` of the profiles that each picture names: NAME [FOLDER]."""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from dguide.settings import Layout, load_config
from dguide.stages.guided import variant_trajectory
from discriminator_guidance.core.files import read_npz
from discriminator_guidance.core.runtime import prepare
from discriminator_guidance.metrics.features import extract_features, load_fid_network

ROOT = Path(sys.argv[2] if len(sys.argv) > 2 else ".")
PANELS = {
    "edm": "the biased model",
    "few": "guided, weight 1",
    "few_double": "guided, weight 2",
    "tuned": "fine-tuned",
    "clip_six": "six, without sigmoid",
}
RARE = range(5, 10)  # the classes of which the model saw few images
ROWS, COLUMNS, EDGE = 6, 5, 3
PROCESS, SHOWN = ("edm", "few", "few_double"), 3  # variants, and the number of their sample
RULE = {"edm": "no guidance", "mean_prob": "six, mean probability", "clip_logit": "six, clipped logit"}
FIRST = 20  # of their samples
GREY, ORANGE = "#808080", "#D55E00"


def samples(profile: str, variant: str) -> list[np.ndarray]:
    """The samples (N, S, S, 1) of a variant for each training seed."""
    layouts = Layout(ROOT, profile).replicates(load_config(ROOT / f"configs/{profile}.yaml").replicates)
    files = [layout.guided(variant) / "samples.npz" for layout in layouts]
    return [read_npz(file, ["images"], "guided")["images"] for file in files]


def framed(images: np.ndarray, rare: np.ndarray, axes: Axes) -> None:
    """Draw grey images (N, S, S, 1) in a grid, with a frame around those that are rare (N,)."""
    side = images.shape[1] + EDGE
    for number, (image, frame) in enumerate(zip(images[..., 0], rare, strict=True)):
        y, x = (side * place for place in divmod(number, COLUMNS))
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(x, x + side - EDGE, y + side - EDGE, y))
        if frame:
            axes.add_patch(Rectangle((x - 1, y - 1), side - 1, side - 1, fill=False, color=ORANGE, linewidth=1.6))
    axes.set(xlim=(-2, COLUMNS * side), ylim=(ROWS * side, -2))
    axes.axis("off")


def draw_samples() -> None:
    """Profile fashion-six: a panel a row: first samples, rare classes framed; their share is of all training seeds."""
    profile = "fashion-six"
    network = load_fid_network(ROOT / f"models/{profile}/fid_network", prepare("cpu", "float32", 1))
    figure, panels = plt.subplots(1, len(PANELS), figsize=(9.2, 2.7), layout="constrained")
    for axes, (variant, label) in zip(panels, PANELS.items(), strict=True):
        images = np.concatenate(samples(profile, variant))
        rare = np.isin(extract_features(network.forward, images, 500, "cpu").argmax(1), RARE)
        framed(images[: ROWS * COLUMNS], rare[: ROWS * COLUMNS], axes)
        balanced = " (data: 50 %)" if variant == "edm" else ""
        axes.set_title(f"{label}\n{100 * rare.mean():.0f} % rare{balanced}", fontsize=10)
    path = ROOT / "docs/images/samples.png"
    figure.savefig(path, dpi=200, bbox_inches="tight", metadata={"Software": None})


def draw_process() -> None:
    """Profile fashion-biased: what the denoiser estimates at every noise level for one sample, a row a variant."""
    config = load_config(ROOT / "configs/fashion-biased.yaml")
    layout = Layout(ROOT, "fashion-biased").replicates(config.replicates)[0]
    steps = config.sampler.steps
    figure, panels = plt.subplots(len(PROCESS), steps, figsize=(9.2, 1.9), layout="constrained")
    for row, variant in zip(panels, PROCESS, strict=True):
        path = variant_trajectory(config.replicate(0), layout, variant, SHOWN + 1)
        row[0].set_ylabel(PANELS[variant].replace(", ", ",\n"), rotation=0, ha="right", va="center", color=GREY)
        for axes, estimate, sigma in zip(row, path["denoised"][:, SHOWN, ..., 0], path["sigma"], strict=False):
            axes.imshow(estimate, cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if variant == PROCESS[0]:
                axes.set_title(f"σ {sigma:.2g}", fontsize=10)
    figure.savefig(ROOT / "docs/images/process.png", dpi=200, metadata={"Software": None})


def draw_rule() -> None:
    """Profile fashion16: the first samples of the first training seed, a row a variant."""
    figure, panels = plt.subplots(len(RULE), 1, figsize=(9.2, 1.45), layout="constrained")
    for axes, (variant, label) in zip(panels, RULE.items(), strict=True):
        images = samples("fashion16", variant)[0][:FIRST, ..., 0]
        gaps = np.pad(images.astype(float), [(0, 0), (0, 0), (0, 1)], constant_values=np.nan)  # drawn as nothing
        axes.imshow(np.hstack(gaps), cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", color=GREY)
    figure.savefig(ROOT / "docs/images/rule.png", dpi=200, metadata={"Software": None})


if __name__ == "__main__":
    mpl.rcParams |= {"font.family": "DejaVu Sans", "text.color": GREY, "savefig.transparent": True}
    {"samples": draw_samples, "process": draw_process, "rule": draw_rule}[sys.argv[1]]()
