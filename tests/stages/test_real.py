"""Stage `real`."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dguide.settings import Layout, load_config
from dguide.sources import read_digits
from dguide.stages import real
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.images import content_digest
from tests.sources import cifar_lookalike

PROJECT = Path(__file__).resolve().parents[2]
DIGITS = PROJECT / "data" / "raw" / "digits.npz"
CLASSES = ("cat", "dog", "owl")


def make(root: Path, **settings: Any) -> dict[str, dict[str, np.ndarray]]:
    """Run the stage in a project folder; what it wrote: both parts and the card."""
    config = load_config(PROJECT / "configs" / "mini.yaml")
    path = str(settings.get("path", DIGITS))
    paths = {"path": path, "holdout_path": str(settings.get("holdout_path", path))}
    changed = replace(config.real, **settings | paths)
    layout = Layout(root, "tiny")
    summary = real.run(SimpleNamespace(real=changed), layout, Tracker())
    parts = {name: dict(np.load(layout.real / f"{name}.npz")) for name in ("train", "holdout")}
    card = json.loads((layout.real / "card.json").read_text())
    assert summary == {"images": card["count"], "train": card["train"], "holdout": card["holdout"]}
    assert all(len(part["images"]) == card[name] for name, part in parts.items())
    return {**parts, "card": card}


def results(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "data" / "tiny" / "real").iterdir()}


def write_set(path: Path, count: int, seed: int, classes: tuple[str, ...] = CLASSES) -> np.ndarray:
    """A zip of class folders of 16 x 16 pixels; its images in the order of their names."""
    images = np.random.default_rng(seed).integers(0, 256, (len(classes) * count, 16, 16, 3), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for index, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG")
            archive.writestr(f"set/{classes[index // count]}/{index:04d}.png", buffer.getvalue())
    return images


def test_digits_are_split_as_ever(tmp_path):
    made = make(tmp_path)
    together = [
        (i.tobytes(), int(n)) for part in ("train", "holdout") for i, n in zip(*made[part].values(), strict=True)
    ]
    source = read_digits(DIGITS, 16)
    assert sorted(together) == sorted((i.tobytes(), int(n)) for i, n in zip(source.images, source.labels, strict=True))
    assert {name: content_digest(made[name]["images"]) for name in ("train", "holdout")} == {
        "train": "1883c296ed2c0a870e62e079458e3f760c886d7855cc02b033acd4c094edfca9",
        "holdout": "12534a32132e1ba19c822c41667dc77413ea5c612e068f792cd13c9add3890ef",
    }
    assert made["card"]["count"] == sum(made["card"]["classes"].values()) == 1797


def test_held_out_images_of_their_own(tmp_path):
    train, test = write_set(tmp_path / "train.zip", 5, 0), write_set(tmp_path / "test.zip", 2, 1)
    made = make(
        tmp_path, source="images", path="train.zip", holdout_path="test.zip", holdout_fraction=0, note="made up"
    )
    for name, images in (("train", train), ("holdout", test)):
        assert (made[name]["images"] == images).all()
        assert made[name]["labels"].tolist() == np.repeat([0, 1, 2], len(images) // 3).tolist()
    card = made["card"]
    assert (card["note"], card["count"], card["shape"]) == ("made up", 21, [16, 16, 3])
    assert card["classes"] == {"cat": 7, "dog": 7, "owl": 7}


def test_a_share_of_the_images_of_a_folder_held_out(tmp_path):
    write_set(tmp_path / "train.zip", 10, 0)
    shutil.unpack_archive(tmp_path / "train.zip", tmp_path / "folder")
    made = make(tmp_path, source="images", path=tmp_path / "folder", image_size=8)
    assert [len(made[name]["images"]) for name in ("train", "holdout")] == [24, 6]


def test_official_cifar10(tmp_path, monkeypatch):
    path = cifar_lookalike.write_official(tmp_path / "cifar-10-binary.tar.gz", monkeypatch)
    settings = {"source": "cifar10", "path": path.name, "holdout_fraction": 0, "image_size": 32}
    made = make(tmp_path, **settings)
    assert made["train"]["images"].shape == (60, 32, 32, 3)
    assert made["holdout"]["labels"].tolist() == cifar_lookalike.rows_of("test_batch.bin")[1].tolist()
    assert tuple(made["card"]["classes"]) == cifar_lookalike.NAMES


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: write_set(path, 2, 1, ("cat", "dog")), "a difference: owl"),
        (lambda path: write_set(path, 5, 0), "the training images"),
    ],
)
def test_a_bad_source_leaves_earlier_results_alone(
    tmp_path: Path, broken: Callable[[Path], object], complaint: str
) -> None:
    write_set(tmp_path / "train.zip", 5, 0)
    write_set(tmp_path / "test.zip", 2, 1)
    settings = {"source": "images", "path": "train.zip", "holdout_path": "test.zip", "holdout_fraction": 0}
    make(tmp_path, **settings)
    before = results(tmp_path)
    broken(tmp_path / "test.zip")
    with pytest.raises(InputError, match=complaint):
        make(tmp_path, **settings)
    assert results(tmp_path) == before
