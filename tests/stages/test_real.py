"""Stage `real`."""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dguide.settings import Layout, load_config
from dguide.settings.config import Splits
from dguide.stages import real
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import write_npz
from tests.sources import cifar_lookalike

PROJECT = Path(__file__).resolve().parents[2]
DIGITS = PROJECT / "data" / "raw" / "digits.npz"
APART = {"source": "images", "path": "train.npz", "holdout_path": "test.npz", "holdout_fraction": 0}


def settings_of(section: Any) -> Any:
    return SimpleNamespace(real=section, check_counts=lambda *counts: None)


def make(root: Path, **settings: Any) -> dict[str, dict[str, np.ndarray]]:
    """Run the stage in a project folder; what it wrote: both parts and the card."""
    config = load_config(PROJECT / "configs" / "mini.yaml")
    path = str(settings.get("path", DIGITS))
    paths = {"path": path, "holdout_path": str(settings.get("holdout_path", path))}
    changed = replace(config.real, **settings | paths)
    layout = Layout(root, "tiny")
    summary = real.run(settings_of(changed), layout, Tracker())
    parts = {name: dict(np.load(layout.real / f"{name}.npz")) for name in ("train", "holdout")}
    card = json.loads((layout.real / "card.json").read_text())
    assert summary == {"images": card["count"], "train": card["train"], "holdout": card["holdout"]}
    assert all(len(part["images"]) == card[name] for name, part in parts.items())
    return {**parts, "card": card}


def results(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "data/tiny/real").iterdir()}


def write_set(path: Path, count: int, seed: int, classes: int = 3) -> np.ndarray:
    """An .npz of images of 16 x 16 pixels, by class; its images."""
    images = np.random.default_rng(seed).integers(0, 256, (classes * count, 16, 16, 3), dtype=np.uint8)
    write_npz(path, images=images, labels=np.repeat(np.arange(classes), count))
    return images


def test_digits_are_split_as_ever(tmp_path):
    made = make(tmp_path)
    images = {name: made[name]["images"] for name in ("train", "holdout")}
    assert {name: sha256(f"{part.shape}".encode() + part.tobytes()).hexdigest() for name, part in images.items()} == {
        "train": "1883c296ed2c0a870e62e079458e3f760c886d7855cc02b033acd4c094edfca9",
        "holdout": "12534a32132e1ba19c822c41667dc77413ea5c612e068f792cd13c9add3890ef",
    }
    assert made["card"]["count"] == sum(made["card"]["classes"].values()) == 1797


def test_held_out_images_of_their_own(tmp_path):
    train, test = write_set(tmp_path / "train.npz", 5, 0), write_set(tmp_path / "test.npz", 2, 1)
    made = make(tmp_path, **APART, note="made up")
    for name, images in (("train", train), ("holdout", test)):
        assert (made[name]["images"] == images).all()
        assert made[name]["labels"].tolist() == np.repeat([0, 1, 2], len(images) // 3).tolist()
    card = made["card"]
    assert (card["note"], card["count"], card["shape"]) == ("made up", 21, [16, 16, 3])
    assert card["classes"] == {"0": 7, "1": 7, "2": 7}


def test_a_share_of_smaller_images_held_out(tmp_path):
    write_set(tmp_path / "all.npz", 10, 0)
    made = make(tmp_path, source="images", path="all.npz", image_size=8)
    assert [made[name]["images"].shape for name in ("train", "holdout")] == [(24, 8, 8, 3), (6, 8, 8, 3)]


def test_official_cifar10(tmp_path, monkeypatch):
    path = cifar_lookalike.write_official(tmp_path / "cifar-10-binary.tar.gz", monkeypatch)
    made = make(tmp_path, source="cifar10", path=path.name, holdout_fraction=0, image_size=32)
    assert made["train"]["images"].shape == (60, 32, 32, 3)
    assert made["holdout"]["labels"].tolist() == cifar_lookalike.rows_of("test_batch.bin")[1].tolist()
    assert tuple(made["card"]["classes"]) == cifar_lookalike.NAMES


def test_splits_share_no_image_and_the_score_network_is_given_fewer_of_some_classes(tmp_path):
    images = write_set(tmp_path / "train.npz", 100, 0)
    write_set(tmp_path / "test.npz", 2, 1)
    sizes = {"score": 120, "discriminator": 60, "fid_network": 50, "reference": 40}
    config = load_config(PROJECT / "configs" / "mini.yaml")
    paths = {name: str(tmp_path / APART[name]) for name in ("path", "holdout_path")}
    settings = replace(config.real, **APART | paths, splits=Splits(**sizes), score_shares=(1.0, 0.5, 0.1))
    layout = Layout(tmp_path, "tiny")
    real.run(settings_of(settings), layout, Tracker())
    parts = {name: dict(np.load(layout.part(name))) for name in sizes}
    counts = json.loads((layout.real / "card.json").read_text())["splits"]
    assert [sum(counts[name]) for name in (*sizes,)[1:]] == [60, 50, 40]
    full, half, tenth = counts["score"]
    assert (full > 2 * half - 20, half > 3 * tenth, full + half + tenth) == (True, True, len(parts["score"]["labels"]))
    digests = [image.tobytes() for part in parts.values() for image in part["images"]]
    assert len({*digests}) == len(digests), "no image is in two splits"
    assert {*digests} <= {image.tobytes() for image in images}
    assert not (layout.real / "train.npz").exists()

    real.run(settings_of(replace(settings, score_shares=(1e-4,) * 3)), layout, Tracker())
    assert json.loads((layout.real / "card.json").read_text())["splits"]["score"] == [1, 1, 1]
    with pytest.raises(InputError, match="score_shares has 2 for 3 classes"):
        real.run(settings_of(replace(settings, score_shares=(0.5, 0.5))), layout, Tracker())
    with pytest.raises(ConfigError, match="overlap"):
        real.run(settings_of(replace(settings, path=str(layout.real))), layout, Tracker())
    (layout.real / ".train.npz.killed.tmp").touch()
    real.run(settings_of(replace(settings, splits=None, score_shares=None)), layout, Tracker())
    written = {"train.npz", "holdout.npz", "card.json", "grid.png"}
    assert {file.name for file in layout.real.iterdir()} == written, "no former split, nothing of a killed run"


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: write_set(path, 2, 1, classes=2), "the classes of .*test.npz and of the .* differ in 2"),
        (lambda path: write_set(path, 5, 0), "test.npz are the training images"),
    ],
)
def test_a_bad_source_spares_earlier_results(tmp_path: Path, broken: Callable[[Path], object], complaint: str) -> None:
    write_set(tmp_path / "train.npz", 5, 0)
    write_set(tmp_path / "test.npz", 2, 1)
    make(tmp_path, **APART)
    before = results(tmp_path)
    broken(tmp_path / "test.npz")
    with pytest.raises(InputError, match=complaint):
        make(tmp_path, **APART)
    assert results(tmp_path) == before


def test_one_class_has_any_name(tmp_path):
    write_npz(tmp_path / "test.npz", images=write_set(tmp_path / "train.npz", 5, 0, classes=1)[::-1])
    assert make(tmp_path, **APART)["card"]["classes"] == {"0": 10}
