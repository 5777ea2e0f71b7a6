"""What a profile reads from outside: whether its files are there, and whether their images are enough."""

from __future__ import annotations

from pathlib import Path

from dguide.settings.config import Config, Real
from dguide.settings.layout import Layout
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import read_json

CIFAR10_IMAGES = 50_000, 10_000  # for training and test


def check_inputs(config: Config, layout: Layout, stage: str = "real") -> None:
    """Refuse missing files, and images that are too few or too small, before a stage computes.

    Stages after `real` depend on its result, and on no file that they do not read themselves.
    """
    if stage == "real":
        for path, (key, remedy) in missing_files(config, layout.root).items():
            raise InputError(f"{path}, which {key} names", "no such file or folder", remedy)
        config.check_counts(*image_counts(config.real, layout.root))
    elif (card := layout.real / "card.json").is_file():
        config.check_counts(*(read_json(card, "real")[part] for part in ("train", "holdout")))


def missing_files(config: Config, root: Path) -> dict[str, tuple[str, str]]:
    """The input files of a profile that are not there, each with the key that names it and how to get it."""
    named = {"real.path": config.real.path, "real.holdout_path": config.real.holdout_path}
    named |= {f"{word}.path": getattr(config, word).path for word in ("score", "extractor", "fid_network")}
    named |= {f"members.{name}.start": row.start for name, row in config.members.items()}
    named["evaluation.reference"] = config.evaluation.reference
    downloads = {file.path: (name, file) for name, file in config.fetch.files.items()}
    missing = dict[str, tuple[str, str]]()
    for key, path in named.items():
        made = path.startswith((f"data/{config.profile}/", "models/"))
        if not made and path not in missing and not (root / path).exists():
            name, file = downloads.get(path, ("", None))
            how = f"by hand from {file.by_hand}" if file else f"put it there by hand, or correct {key}"
            missing[path] = key, f"`dguide fetch {name}`, or {how}" if file and file.url else how
    return missing


def image_counts(real: Real, root: Path) -> tuple[int, int]:
    """The numbers of training and held-out images that stage `real` will make; of image files, one is read."""
    from dguide.sources import read_digits

    if real.source == "cifar10":
        return CIFAR10_IMAGES
    if real.source == "digits":
        count = len(read_digits(root / real.path, real.image_size).labels)
    else:
        count = _count(root / real.path, real.image_size)
        if real.holdout_path != real.path:
            return count, _count(root / real.holdout_path, real.image_size)
    held_out = round(real.holdout_fraction * count)
    return count - held_out, held_out


def _count(path: Path, image_size: int) -> int:
    from discriminator_guidance.core.image_files import open_images

    images = open_images(path)
    height, width, _ = images.shape
    if height != width or height < image_size:
        remedy = f"crop them, or lower real.image_size = {image_size}"
        raise InputError(f"square images of {image_size} pixels or more in {path}", f"{width}x{height}", remedy)
    return len(images.names)
