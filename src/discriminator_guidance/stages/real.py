"""Stage `real`: the pictures the study is about, split into training and held-out ones, with a data card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from discriminator_guidance.artifacts.archives import source_digest
from discriminator_guidance.artifacts.cifar10 import PARTS, read_cifar10
from discriminator_guidance.artifacts.files import sha256, write_json, write_npz
from discriminator_guidance.artifacts.image_files import Progress, read_images
from discriminator_guidance.artifacts.images import (
    GRID_COLUMNS,
    GRID_ROWS,
    Pictures,
    content_digest,
    digits,
    write_grid,
)
from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.errors import InputError
from discriminator_guidance.stages.context import Context, StageResult

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Real


def run(config: Config, context: Context) -> StageResult:
    """Make `train.npz`, `holdout.npz`, `card.json` and a picture grid.

    Args:
        config: reads `real`.
        context: surroundings.

    Returns:
        Counts and digests.

    Raises:
        InputError: a source is missing, damaged, or not what it should be; then nothing is written.
    """
    settings = config.real
    named = {"train": settings.path, "holdout": settings.holdout_path}
    paths = {part: context.layout.root / Path(path).expanduser() for part, path in named.items() if path}
    pictures, parts = _parts(settings, paths, context)
    sources = {part: {"name": path.name, "sha256": source_digest(path)} for part, path in paths.items()}

    folder = context.layout.real
    for name, rows in parts.items():
        write_npz(folder / f"{name}.npz", images=pictures.images[rows], labels=pictures.labels[rows])
    card = _card(pictures, settings, {name: len(rows) for name, rows in parts.items()})
    card["sha256"] = {f"{name}.npz": sha256(folder / f"{name}.npz") for name in parts}
    card["source_files"] = sources
    write_json(folder / "card.json", card)
    write_grid(folder / "grid.png", pictures.images[_shown(pictures, parts["train"])])
    return StageResult(
        summary={"images": card["count"], "train": card["train"], "holdout": card["holdout"]},
        outputs=[folder / name for name in ("train.npz", "holdout.npz", "card.json", "grid.png")],
        artifacts=[folder / "card.json", folder / "grid.png"],
    )


def _parts(settings: Real, paths: dict[str, Path], context: Context) -> tuple[Pictures, dict[str, np.ndarray]]:
    """All pictures, and the rows of each part."""
    if settings.source == "cifar10":
        with context.bar("real cifar10", len(PARTS), "files") as advance:
            return _joined(*read_cifar10(paths["train"], settings.image_size, advance))
    if settings.source == "digits":
        return _divided(digits(settings.image_size), settings)
    found = {part: read_images(path, settings.image_size, _bar(context, part)) for part, path in paths.items()}
    if "holdout" not in found:
        return _divided(found["train"], settings)
    _check_alike(found["train"], found["holdout"], paths["holdout"])
    return _joined(found["train"], found["holdout"])


def _bar(context: Context, part: str) -> Progress:
    return lambda total: context.bar(f"real {part}", total, "pictures")


def _divided(pictures: Pictures, settings: Real) -> tuple[Pictures, dict[str, np.ndarray]]:
    order = generator(settings.seed, "holdout", 0, 0).permutation(len(pictures.images))
    held_out = round(settings.holdout_fraction * len(order))
    if held_out in (0, len(order)):
        raise InputError(
            "pictures in both parts",
            f"{held_out} of {len(order)} held out",
            "change real.holdout_fraction or give more pictures",
        )
    return pictures, {"holdout": np.sort(order[:held_out]), "train": np.sort(order[held_out:])}


def _joined(train: Pictures, holdout: Pictures) -> tuple[Pictures, dict[str, np.ndarray]]:
    both = Pictures(
        np.concatenate([train.images, holdout.images]),
        np.concatenate([train.labels, holdout.labels]),
        train.classes,
    )
    rows = np.arange(len(both.images))
    return both, {"holdout": rows[len(train.images) :], "train": rows[: len(train.images)]}


def _check_alike(train: Pictures, holdout: Pictures, path: Path) -> None:
    if train.classes != holdout.classes:
        odd = sorted(set(train.classes) ^ set(holdout.classes))[0]
        raise InputError(f"the classes of the training pictures in {path}", f"a difference: {odd}", "make them agree")
    if train.images.shape[1:] != holdout.images.shape[1:]:
        raise InputError(
            f"pictures (H, W, C) {train.images.shape[1:]} in {path}", f"{holdout.images.shape[1:]}", "make them agree"
        )
    if content_digest(train.images) == content_digest(holdout.images):
        raise InputError(f"other pictures in {path}", "the training pictures", "mend real.holdout_path")


def _shown(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Rows for the grid: the first ones, or evenly spread ones where the first would all be of one class."""
    count = min(len(rows), GRID_COLUMNS * GRID_ROWS)
    if (np.diff(pictures.labels[rows]) < 0).any():
        return rows[:count]
    return rows[np.arange(count) * len(rows) // count]


def _card(pictures: Pictures, settings: Real, parts: dict[str, int]) -> dict[str, Any]:
    images = pictures.images
    per_class = np.bincount(pictures.labels, minlength=len(pictures.classes)).tolist()
    mean, std = _moments(images)
    return {
        "source": settings.source,
        "note": settings.note,
        "count": len(images),
        "train": parts["train"],
        "holdout": parts["holdout"],
        "shape": list(images.shape[1:]),
        "classes": dict(zip(pictures.classes, per_class, strict=True)),
        "mean": [round(m, 4) for m in mean],
        "std": [round(s, 4) for s in std],
        "content_sha256": content_digest(images),
    }


def _moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, from exact sums, without a copy of the set in float64."""
    values = np.arange(256)
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for chunk in np.array_split(images, max(1, len(images) // 1000)):
        counts += [np.bincount(channel, minlength=256) for channel in chunk.reshape(-1, images.shape[3]).T]
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    return mean.tolist(), np.sqrt(np.maximum(variance, 0)).tolist()
