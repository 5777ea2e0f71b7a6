"""Command `init` writes a profile that the checks accept, and these refuse what the images are not enough for."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dguide.settings import load_config
from dguide.stages.init import write_profile
from discriminator_guidance.core.errors import UserError
from discriminator_guidance.core.files import write_npz
from tests.settings.settings import PROJECT, read


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the profile mini alone."""
    (tmp_path / "configs").mkdir()
    shutil.copy(PROJECT / "configs/mini.yaml", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images(count: int, height: int, width: int, classes: int = 2) -> Path:
    images = np.zeros((count, height, width, 3), np.uint8)
    write_npz(path := Path("data/My pets.npz"), images=images, labels=np.arange(count) % classes)
    return path


@pytest.mark.parametrize(
    ("count", "side", "sizes"),
    [  # pixels, fakes, images of d0, samples, features of FID, iterations of the score network, share of the test split
        (100, 9, (8, 80, None, 500, 10, 1000, 0.2)),
        (499, 30, (28, 399, None, 500, 49, 1000, 0.2)),
        (2500, 33, (32, 2000, None, 2000, 64, 1000, 0.1)),
        (14_000, 8, (8, 10_000, 10_000, 5000, 64, 2800, 0.1)),
    ],
)
def test_sizes_follow_from_the_images_and_pass_the_checks(project: Path, count: int, side: int, sizes: Any) -> None:
    path = write_profile(project, write_images(count, side, side), None)
    assert path == project / "configs/my-pets.yaml"
    config = load_config(path)
    config.check_counts(count - round(0.2 * count), round(0.2 * count))
    written = config.real.image_size, config.fake.images, config.members["d0"].images, config.guided.images
    iterations, test = config.score.training.iterations, config.discriminator.split.test
    assert (*written, config.fid_network.features, iterations, test) == sizes


@pytest.mark.parametrize(
    ("shape", "name", "complaint"),
    [
        ((99, 8, 8), None, "100 or more images of 2 or more classes in .*; got 99 of 2; give more"),
        ((100, 8, 8, 1), None, "got 100 of 1; give more"),
        ((100, 8, 9), None, "got images of 9x8, not square ones of at least 8x8"),
        ((100, 7, 7), None, "got images of 7x7, not square ones of at least 8x8"),
        ((100, 8, 8), "mini", "that configs/ does not have; got 'mini'; give another NAME"),
        ((100, 8, 8), "../pets", "a NAME of a-z, 0-9, - and _ .*; got '../pets'"),
    ],
)
def test_what_makes_no_profile_is_refused(project: Path, shape: Any, name: str | None, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        write_profile(project, write_images(*shape), name)
    assert [path.name for path in (project / "configs").iterdir()] == ["mini.yaml"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"evaluation.neighborhood": 79}, "evaluation.neighborhood; got 79; it must be at most 78"),
        ({"evaluation.neighborhood": 18, "guided.images": 19}, "it must be at most 17"),
        ({"discriminator.images": 81}, "members.d0.images; got 81; it must be at most 80"),
        ({"real.holdout_fraction": 0.91}, "an image in each part of .*split and 3 held-out ones; got 9 and 91; give"),
        ({"real.holdout_fraction": 0.02}, "got 98 and 2"),
        ({"fake.images": 9}, "got 9 and 20"),
        ({"discriminator.split": {"train": 0.98, "validation": 0.01, "test": 0.01, "seed": 4}}, "got 80 and 20"),
    ],
    ids=str,
)
def test_more_than_there_is_is_refused(changes: dict[str, Any], complaint: str) -> None:
    images, held_out = {"real.source": "images", "fake.images": 100}, changes.get("real.holdout_fraction", 0.2)
    read(images).check_counts(80, 20)
    with pytest.raises(UserError, match=complaint):
        read(images | changes).check_counts(100 - round(100 * held_out), round(100 * held_out))
