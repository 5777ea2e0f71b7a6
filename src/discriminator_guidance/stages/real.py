"""Stage `real`: the images the study is about, split into training and held-out ones, with a data card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from discriminator_guidance import progress
from discriminator_guidance.data.cifar10 import read_cifar10
from discriminator_guidance.data.digits import read_digits
from discriminator_guidance.data.files import fingerprint, sha256, write_json, write_npz
from discriminator_guidance.data.image_files import open_images, read_images
from discriminator_guidance.data.images import GRID_COLUMNS, GRID_ROWS, Images, content_digest, write_grid
from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.errors import InputError

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.layout import Layout
    from discriminator_guidance.tracking import Tracker


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Make `train.npz`, `holdout.npz`, `card.json` and `grid.png`, or nothing where a source is not as it should be."""
    settings = config.real
    path = layout.root / settings.path
    sources = {"train": path}
    if settings.source == "cifar10":
        images, parts = _joined(*read_cifar10(path, settings.image_size))
    elif settings.source == "digits":
        images, parts = _split(read_digits(path, settings.image_size), settings.seed, settings.holdout_fraction)
    elif settings.separate_holdout is None:
        images, parts = _split(_read(path, settings.image_size), settings.seed, settings.holdout_fraction)
    else:
        sources["holdout"] = layout.root / settings.separate_holdout
        train, holdout = (_read(source, settings.image_size) for source in sources.values())
        _check_alike(train, holdout, sources["holdout"])
        images, parts = _joined(train, holdout)
    # Before anything is written: a source that changes meanwhile would have the wrong hash.
    origin = {part: {"name": source.name, "sha256": _digest(source)} for part, source in sources.items()}

    for name, rows in parts.items():
        write_npz(layout.real / f"{name}.npz", images=images.images[rows], labels=images.labels[rows])
    card = {
        "source": settings.source,
        "note": settings.note,
        **_card(images, {name: len(rows) for name, rows in parts.items()}),
        "sha256": {f"{name}.npz": sha256(layout.real / f"{name}.npz") for name in parts},
        "source_files": origin,
    }
    write_json(layout.real / "card.json", card)
    write_grid(layout.real / "grid.png", images.images[_shown(images, parts["train"])])
    tracker.artifact(layout.real / "card.json")
    tracker.artifact(layout.real / "grid.png")
    return {"images": card["count"], "train": card["train"], "holdout": card["holdout"]}


def _read(path: Path, image_size: int) -> Images:
    with progress.bar(f"real {path.name}", len(open_images(path).names), "images") as advance:
        return read_images(path, image_size, advance)


def _split(images: Images, seed: int, holdout_fraction: float) -> tuple[Images, dict[str, np.ndarray]]:
    """The rows of both parts, drawn at random and sorted."""
    order = generator(seed, "holdout", 0, 0).permutation(len(images.images))
    held_out = round(holdout_fraction * len(order))
    if held_out in (0, len(order)):
        remedy = "change real.holdout_fraction or give more images"
        raise InputError("images in both parts", f"{held_out} of {len(order)} held out", remedy)
    return images, {"holdout": np.sort(order[:held_out]), "train": np.sort(order[held_out:])}


def _joined(train: Images, holdout: Images) -> tuple[Images, dict[str, np.ndarray]]:
    labels = np.concatenate([train.labels, holdout.labels])
    both = Images(np.concatenate([train.images, holdout.images]), labels, train.classes)
    rows = np.arange(len(both.images))
    return both, {"holdout": rows[len(train.images) :], "train": rows[: len(train.images)]}


def _check_alike(train: Images, holdout: Images, path: Path) -> None:
    if train.classes != holdout.classes:
        odd = sorted(set(train.classes) ^ set(holdout.classes))[0]
        raise InputError(f"the classes of the training images in {path}", f"a difference: {odd}", "make them agree")
    shape = train.images.shape[1:]
    if shape != holdout.images.shape[1:]:
        raise InputError(f"images (H, W, C) {shape} in {path}", f"{holdout.images.shape[1:]}", "make them agree")
    if content_digest(train.images) == content_digest(holdout.images):
        raise InputError(f"other images in {path}", "the training images", "correct real.holdout_path")


def _digest(source: Path) -> str:
    """The SHA-256 of a file; of a folder that of all names and hashes in it."""
    if source.is_file():
        return sha256(source)
    files = (file for file in source.rglob("*") if file.is_file())
    return fingerprint({file.relative_to(source).as_posix(): sha256(file) for file in files})


def _shown(images: Images, rows: np.ndarray) -> np.ndarray:
    """Rows for the grid: the first ones, or evenly spread ones where the first would all be of one class."""
    count = min(len(rows), GRID_COLUMNS * GRID_ROWS)
    if (np.diff(images.labels[rows]) < 0).any():
        return rows[:count]
    return rows[np.arange(count) * len(rows) // count]


def _card(images: Images, parts: dict[str, int]) -> dict[str, Any]:
    per_class = np.bincount(images.labels, minlength=len(images.classes)).tolist()
    # Moments of each channel from exact sums, without a copy of the set in float64.
    values = np.arange(256)
    channels = range(images.images.shape[3])
    counts = np.array([np.bincount(images.images[..., channel].ravel(), minlength=256) for channel in channels])
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    return {
        "count": len(images.images),
        "train": parts["train"],
        "holdout": parts["holdout"],
        "shape": list(images.images.shape[1:]),
        "classes": dict(zip(images.classes, per_class, strict=True)),
        "mean": [round(m, 4) for m in mean.tolist()],
        "std": [round(s, 4) for s in np.sqrt(np.maximum(variance, 0)).tolist()],
        "content_sha256": content_digest(images.images),
    }
