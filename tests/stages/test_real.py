"""Stage `real`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from discriminator_guidance.artifacts import cifar10
from discriminator_guidance.artifacts.files import read_json, sha256
from discriminator_guidance.artifacts.images import content_digest, digits
from discriminator_guidance.errors import InputError
from tests.artifacts import cifar_lookalike

from .conftest import Study

CLASSES = ("cat", "dog", "owl")


def write_set(path: Path, count: int, seed: int, classes: tuple[str, ...] = CLASSES, side: int = 16) -> np.ndarray:
    """A zip of class folders; returns its pictures in the order of their names."""
    images = np.random.default_rng(seed).integers(0, 256, (len(classes) * count, side, side, 3), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for index, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG")
            archive.writestr(f"set/{classes[index // count]}/{index:04d}.png", buffer.getvalue())
    return images


def write_pictures(path: Path, *kinds: tuple[str, int]) -> None:
    """A zip of class folders with a picture of each mode and side in every one."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in CLASSES:
            for index, (mode, side) in enumerate(kinds):
                buffer = io.BytesIO()
                Image.new(mode, (side, side)).save(buffer, format="PNG")
                archive.writestr(f"set/{name}/{index:04d}.png", buffer.getvalue())


def images_study(root: Path, **settings: object) -> Study:
    study = Study(root)
    study.settings["real"] |= {"source": "images", "path": "train.zip", "image_size": 16} | settings
    study.resize(study.settings["real"]["image_size"])
    return study


def test_every_digit_is_in_exactly_one_part(study: Study):
    study.ensure("real")
    parts = [np.load(study.layout.real / f"{name}.npz") for name in ("train", "holdout")]
    together = np.concatenate([part["images"] for part in parts])
    source = digits(8).images
    assert len(together) == len(source) == 1797
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in source)
    assert len(parts[1]["images"]) == 359
    assert together.dtype == np.uint8
    assert together.shape[1:] == (8, 8, 1)


def test_labels_stay_with_their_pictures(study: Study):
    study.ensure("real")
    source = digits(8)
    of = {image.tobytes(): label for image, label in zip(source.images, source.labels, strict=True)}
    part = np.load(study.layout.real / "train.npz")
    assert all(of[i.tobytes()] == label for i, label in zip(part["images"], part["labels"], strict=True))


def test_card_describes_the_files(study: Study):
    study.ensure("real")
    card = read_json(study.layout.real / "card.json", "real")
    assert card["count"] == card["train"] + card["holdout"] == 1797
    assert sum(card["classes"].values()) == 1797
    assert card["sha256"]["train.npz"] == sha256(study.layout.real / "train.npz")


def test_same_seed_same_bytes(study: Study, tmp_path):
    study.ensure("real")
    again = Study(tmp_path)
    again.run("real")
    for name in ("train.npz", "holdout.npz"):
        assert (again.layout.real / name).read_bytes() == (study.layout.real / name).read_bytes()
    again.settings["real"]["seed"] += 1
    again.run("real")
    assert (again.layout.real / "train.npz").read_bytes() != (study.layout.real / "train.npz").read_bytes()


def test_enlarging_keeps_the_grey_range():
    large = digits(16).images
    assert large.min() == 0
    assert large.max() == 255
    assert abs(large.mean() - digits(8).images.mean()) < 1.0


@pytest.mark.parametrize("image_size", [8, 16, 32, 64])
def test_digits_are_those_of_scikit_learn_enlarged_as_torch_does(image_size: int):
    source = load_digits()
    small = torch.from_numpy(source.images)[:, None] / 16
    large = interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    pictures = digits(image_size)
    np.testing.assert_array_equal(pictures.images[..., 0], (255 * large[:, 0]).round().numpy())
    np.testing.assert_array_equal(pictures.labels, source.target)
    assert pictures.classes == tuple(str(name) for name in source.target_names)


@pytest.mark.parametrize("image_size", [9, 24, 40])
def test_digits_of_other_sizes_are_within_a_rounding_of_torch(image_size: int):
    small = torch.from_numpy(load_digits().images)[:, None] / 16
    large = 255 * interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(digits(image_size).images[..., 0], large[:, 0].numpy(), atol=0.5 + 1e-9)


def test_scikit_learn_without_its_digits_is_refused(monkeypatch):
    monkeypatch.setattr("discriminator_guidance.artifacts.images.DIGITS", "absent.csv.gz")
    with pytest.raises(InputError, match=r"scikit-learn's digits in .*absent.csv.gz; got no such file"):
        digits(8)


def test_digits_stay_the_same_pictures(tmp_path):
    study = Study(tmp_path)
    study.resize(16)
    study.run("real")
    # Of the arrays, not of the files: the container's bytes differ between patch releases of Python.
    known = {
        "train.npz": "1883c296ed2c0a870e62e079458e3f760c886d7855cc02b033acd4c094edfca9",
        "holdout.npz": "12534a32132e1ba19c822c41667dc77413ea5c612e068f792cd13c9add3890ef",
    }
    assert {name: content_digest(np.load(study.layout.real / name)["images"]) for name in known} == known
    card = read_json(study.layout.real / "card.json", "real")
    assert card["content_sha256"] == "a8b101e79cf7b28b1ab68bce175e44c1a0bdfecd88a0b27fc66286bf02c31e06"
    assert (card["mean"], card["std"]) == ([77.8409], [81.24])
    assert card["note"] is None


def test_held_out_pictures_of_their_own(tmp_path):
    train, test = write_set(tmp_path / "train.zip", 5, 0), write_set(tmp_path / "test.zip", 2, 1)
    study = images_study(tmp_path, holdout_path="test.zip", holdout_fraction=0, note="made up")
    study.run("real")
    for name, images in (("train", train), ("holdout", test)):
        part = np.load(study.layout.real / f"{name}.npz")
        assert (part["images"] == images).all()
        assert part["labels"].tolist() == np.repeat([0, 1, 2], len(images) // 3).tolist()
    card = read_json(study.layout.real / "card.json", "real")
    both = np.concatenate([train, test])
    assert card["note"] == "made up"
    assert (card["count"], card["train"], card["holdout"]) == (21, 15, 6)
    assert card["classes"] == {"cat": 7, "dog": 7, "owl": 7}
    assert card["shape"] == [16, 16, 3]
    assert card["mean"] == pytest.approx(both.mean(axis=(0, 1, 2)), abs=1e-4)
    assert card["std"] == pytest.approx(both.std(axis=(0, 1, 2)), abs=1e-4)
    assert card["source_files"]["holdout"] == {"name": "test.zip", "sha256": sha256(tmp_path / "test.zip")}
    assert str(tmp_path) not in (study.layout.real / "card.json").read_text()


def test_a_share_of_the_pictures_held_out(tmp_path):
    images = write_set(tmp_path / "train.zip", 10, 0)
    study = images_study(tmp_path, path=str(tmp_path / "train.zip"), image_size=8)
    study.run("real")
    parts = [np.load(study.layout.real / f"{name}.npz")["images"] for name in ("train", "holdout")]
    assert [len(part) for part in parts] == [24, 6]
    assert len({image.tobytes() for part in parts for image in part}) == len(images)


def test_grid_shows_every_class_of_a_sorted_set(tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for index in range(300):
            buffer = io.BytesIO()
            Image.new("L", (8, 8), color=index // 100).save(buffer, format="PNG")
            archive.writestr(f"{index // 100}/{index}.png", buffer.getvalue())
    study = images_study(tmp_path, image_size=8)
    study.run("real")
    assert {0, 1, 2} <= set(np.unique(np.asarray(Image.open(study.layout.real / "grid.png"))).tolist())


def official_study(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, Path]:
    """A study of an archive that looks like the official one, and where that lies."""
    path = root / cifar10.ARCHIVE
    cifar_lookalike.write_archive(path, cifar_lookalike.contents())
    cifar_lookalike.trust(monkeypatch, path)
    study = Study(root)
    study.settings["real"] |= {"source": "cifar10", "path": cifar10.ARCHIVE, "holdout_fraction": 0}
    study.resize(32)
    return study, path


def test_official_cifar10(tmp_path, monkeypatch):
    study, path = official_study(tmp_path, monkeypatch)
    study.run("real")
    train, holdout = (np.load(study.layout.real / f"{name}.npz") for name in ("train", "holdout"))
    assert train["images"].shape == (60, 32, 32, 3)
    assert holdout["labels"].tolist() == cifar_lookalike.rows_of(cifar10.TEST, 12)[1]
    card = read_json(study.layout.real / "card.json", "real")
    assert tuple(card["classes"]) == cifar_lookalike.NAMES
    assert card["source_files"] == {"train": {"name": cifar10.ARCHIVE, "sha256": sha256(path)}}


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "a whole zip archive"),
        (lambda path: write_set(path, 2, 1, ("cat", "cow", "owl")), "a difference: cow"),
        (lambda path: write_set(path, 2, 1, ("cat", "dog")), "a difference: owl"),
        (lambda path: write_set(path, 5, 0), "the training pictures"),
        (lambda path: write_pictures(path, ("RGB", 16), ("RGB", 20)), "pictures of one size and kind.*RGB 20x20"),
        (lambda path: write_pictures(path, ("RGB", 16), ("L", 16)), "pictures of one size and kind.*greyscale 16x16"),
        (lambda path: write_pictures(path, ("L", 16), ("L", 16)), r"\(16, 16, 3\).*got \(16, 16, 1\)"),
    ],
)
def test_a_bad_source_leaves_earlier_results_alone(tmp_path, broken, complaint):
    write_set(tmp_path / "train.zip", 5, 0)
    write_set(tmp_path / "test.zip", 2, 1)
    study = images_study(tmp_path, holdout_path="test.zip", holdout_fraction=0)
    study.run("real")
    before = {path.name: path.read_bytes() for path in study.layout.real.iterdir()}
    broken(tmp_path / "test.zip")
    with pytest.raises(InputError, match=complaint) as caught:
        study.run("real")
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in study.layout.real.iterdir()} == before


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda content: content[: len(content) // 2], "a part of it"),
        (lambda content: content + b"more", "another file"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "md5"),
    ],
)
def test_a_bad_official_archive_leaves_earlier_results_alone(tmp_path, monkeypatch, broken, complaint):
    study, path = official_study(tmp_path, monkeypatch)
    study.run("real")
    before = {path.name: path.read_bytes() for path in study.layout.real.iterdir()}
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(InputError, match=complaint) as caught:
        study.run("real")
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in study.layout.real.iterdir()} == before


def test_too_few_pictures_to_hold_any_out(tmp_path):
    write_set(tmp_path / "train.zip", 1, 0)
    with pytest.raises(InputError, match="0 of 3 held out"):
        images_study(tmp_path, holdout_fraction=0.1).run("real")
    assert not (tmp_path / "data").exists()
