"""Stage `real`: the images the study is about, split into training and held-out ones, with a data card."""

from functools import partial
from typing import Any

import numpy as np

from dguide.settings import Config, Layout
from dguide.settings.config import SIDES, Real
from dguide.sources import read_cifar10, read_digits, read_fashion
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import write_json, write_npz
from discriminator_guidance.core.images import GRID_IMAGES, Images, read_images, write_grid
from discriminator_guidance.core.noise import generator


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Make `train.npz`, or a file a split, `holdout.npz`, `card.json` and `grid.png`; nothing of a faulty source."""
    settings, path, size = config.real, layout.root / config.real.path, config.real.image_size
    for source in (path.resolve(), (layout.root / settings.holdout_path).resolve()):
        if layout.real.resolve().is_relative_to(source) or source.is_relative_to(layout.real.resolve()):
            raise ConfigError(f"{source} and {layout.real}, which the stage replaces, overlap", "move the images")
    if settings.source in SIDES:
        train, holdout = (read_fashion if settings.source == "fashion" else read_cifar10)(path, size)
    elif settings.holdout_path == settings.path:
        images = read_digits(path, size) if settings.source == "digits" else read_images(path, size)
        order = generator(settings.seed, "holdout", 0, 0).permutation(len(images.images))
        held_out = round(settings.holdout_fraction * len(order))
        train, holdout = _rows(images, order[held_out:]), _rows(images, order[:held_out])
    else:
        other = layout.root / settings.holdout_path
        train, holdout = read_images(path, size), read_images(other, size)
        names = {*train.classes}, {*holdout.classes}
        if (odd := sorted(names[0] ^ names[1])) and max(map(len, names)) > 1:
            raise InputError(f"the classes of {other} and of the training images differ in {odd[0]}", "make them agree")
        if (shape := holdout.images.shape[1:]) != (known := train.images.shape[1:]):
            raise InputError(f"images (H, W, C) in {other} are {shape}, the training images {known}", "make them agree")
        if np.array_equal(train.images, holdout.images):
            raise InputError(f"the images in {other} are the training images", "correct real.holdout_path")

    config.check_counts(len(train.labels), len(holdout.labels), len(train.classes))
    parts = {"train": train} if settings.splits is None else splits(train, settings)
    written = {layout.real / f"{name}.npz": part for name, part in {**parts, "holdout": holdout}.items()}
    for file, part in written.items():
        write_npz(file, images=part.images, labels=part.labels)
    present = {*layout.real.glob("*.npz"), *layout.real.glob(".*.tmp")}
    for former in present - {*written}:  # of other splits, or of a killed run
        former.unlink()

    per_class = partial(np.bincount, minlength=len(train.classes))
    labels = np.concatenate([train.labels, holdout.labels])
    card: dict[str, Any] = {
        "source": settings.source,
        "note": settings.note,
        "count": len(labels),
        "train": len(train.labels),
        "holdout": len(holdout.labels),
        "shape": list(train.images.shape[1:]),
        "classes": dict(zip(train.classes, per_class(labels).tolist(), strict=True)),
    }
    if settings.splits is not None:
        card["splits"] = {name: per_class(part.labels).tolist() for name, part in parts.items()}
    write_json(layout.real / "card.json", card)
    spread = np.unique(np.arange(GRID_IMAGES) * len(train.images) // GRID_IMAGES)
    shown = train.images if (np.diff(train.labels) < 0).any() else train.images[spread]  # sorted: the first are alike
    write_grid(layout.real / "grid.png", shown)
    tracker.artifact(layout.real / "card.json", layout.real / "grid.png")
    return {"images": card["count"], "train": card["train"], "holdout": card["holdout"]}


def splits(train: Images, settings: Real) -> dict[str, Images]:
    """Disjoint splits of the training images, drawn at random, in their order; the score network's is thinned."""
    sizes = vars(settings.splits)
    order = generator(settings.seed, "splits", 0, 0).permutation(len(train.labels))
    rows = dict(zip(sizes, np.split(order, np.cumsum([*sizes.values()])), strict=False))
    shares = settings.score_shares or (1.0,) * len(train.classes)
    if len(shares) != len(train.classes):
        raise InputError(f"real.score_shares has {len(shares)} for {len(train.classes)} classes", "write one for each")
    classes = [rows["score"][train.labels[rows["score"]] == number] for number in range(len(shares))]
    kept = [of_class[: max(1, round(share * len(of_class)))] for of_class, share in zip(classes, shares, strict=True)]
    rows["score"] = np.concatenate(kept)
    return {name: _rows(train, part) for name, part in rows.items()}


def _rows(images: Images, rows: np.ndarray) -> Images:
    """Images of some rows that were drawn at random, in their order."""
    rows = np.sort(rows)
    return Images(images.images[rows], images.labels[rows], images.classes)
