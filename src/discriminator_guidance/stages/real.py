"""Stage `real`: the pictures the study is about, split into training and held-out ones, with a data card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from discriminator_guidance.artifacts.files import sha256, write_json, write_npz
from discriminator_guidance.artifacts.images import Pictures, content_digest, digits, write_grid
from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.stages.context import Context, StageResult

if TYPE_CHECKING:
    from discriminator_guidance.config import Config


def run(config: Config, context: Context) -> StageResult:
    """Make `train.npz`, `holdout.npz`, `card.json` and a picture grid.

    Args:
        config: reads `real`.
        context: surroundings.

    Returns:
        Counts and digests.
    """
    settings = config.real
    pictures = digits(settings.image_size)
    order = generator(settings.seed, "holdout", 0, 0).permutation(len(pictures.images))
    held_out = round(settings.holdout_fraction * len(order))
    parts = {"holdout": np.sort(order[:held_out]), "train": np.sort(order[held_out:])}

    folder = context.layout.real
    for name, rows in parts.items():
        write_npz(folder / f"{name}.npz", images=pictures.images[rows], labels=pictures.labels[rows])
    card = _card(pictures, settings.source, {name: len(rows) for name, rows in parts.items()})
    card["sha256"] = {f"{name}.npz": sha256(folder / f"{name}.npz") for name in parts}
    write_json(folder / "card.json", card)
    write_grid(folder / "grid.png", pictures.images[parts["train"]])
    return StageResult(
        summary={"images": card["count"], "train": card["train"], "holdout": card["holdout"]},
        outputs=[folder / name for name in ("train.npz", "holdout.npz", "card.json", "grid.png")],
        artifacts=[folder / "card.json", folder / "grid.png"],
    )


def _card(pictures: Pictures, source: str, parts: dict[str, int]) -> dict[str, Any]:
    images = pictures.images
    per_class = np.bincount(pictures.labels, minlength=len(pictures.classes)).tolist()
    return {
        "source": source,
        "count": len(images),
        "train": parts["train"],
        "holdout": parts["holdout"],
        "shape": list(images.shape[1:]),
        "classes": dict(zip(pictures.classes, per_class, strict=True)),
        "mean": [round(float(m), 4) for m in images.mean(axis=(0, 1, 2))],
        "std": [round(float(s), 4) for s in images.std(axis=(0, 1, 2), dtype=np.float64)],
        "content_sha256": content_digest(images),
    }
