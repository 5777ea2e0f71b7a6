"""Stage `real`."""

from __future__ import annotations

import numpy as np

from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.artifacts.images import digits

from .conftest import Study


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
    from discriminator_guidance.artifacts.files import read_json

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
