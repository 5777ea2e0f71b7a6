"""Command `init` writes a profile that the checks accept, and these refuse what the images are not enough for."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dguide.settings import load_config
from dguide.tools.init import write_profile
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
    write_npz(path := Path("data/raw/My pets.npz"), images=images, labels=np.arange(count) % classes)
    return path


@pytest.mark.parametrize(
    ("count", "side", "classes", "sizes"),
    [  # pixels, fakes, images of whole, samples, features of FID, their and the score network's iterations, test share
        (100, 9, 2, (8, 80, None, 500, 10, 50, 1000, 0.2)),
        (499, 30, 1, (28, 399, None, 500, 49, 400, 1000, 0.2)),
        (2500, 33, 2, (32, 2000, None, 2000, 64, 400, 1000, 0.1)),
        (14_000, 8, 2, (8, 10_000, 10_000, 5000, 64, 2000, 2800, 0.1)),
    ],
)
def test_sizes_follow_from_the_images(project: Path, count: int, side: int, classes: int, sizes: Any) -> None:
    path = write_profile(project, write_images(count, side, side, classes), None)
    assert path == project / "configs/my-pets.yaml"
    config = load_config(path)
    config.check_counts(count - round(0.2 * count), round(0.2 * count))
    written = config.real.image_size, config.fake.images, config.members["whole"].images, config.guided.images
    iterations, test = config.score.training.iterations, config.discriminator.split.test
    learned = config.fid_network.features, config.fid_network.training.iterations
    assert (*written, *learned, iterations, test) == sizes


@pytest.mark.parametrize(
    ("shape", "name", "complaint"),
    [
        ((99, 8, 8), None, "has 99 images, too few for a distance; give 100 or more"),
        ((100, 8, 9), None, "images are 9x8 and must be square, at least 8x8"),
        ((100, 7, 7), None, "images are 7x7 and must be square, at least 8x8"),
        ((100, 8, 8), "mini", "NAME is 'mini'; give .* that configs/, data/ and models/ lack"),
        ((100, 8, 8), "raw", "NAME is 'raw'; give .* that configs/, data/ and models/ lack"),
        ((100, 8, 8), "../pets", "NAME is '../pets'; give one of a-z, 0-9, - and _"),
    ],
)
def test_what_makes_no_profile_is_refused(project: Path, shape: Any, name: str | None, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        write_profile(project, write_images(*shape), name)
    assert [path.name for path in (project / "configs").iterdir()] == ["mini.yaml"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"evaluation.neighborhood": 79}, "evaluation.neighborhood is 79; it must be at most 78"),
        ({"evaluation.neighborhood": 18, "guided.images": 19}, "it must be at most 17"),
        ({"discriminator.images": 81, "fake.images": 99}, "members.d0.images is 81; it must be at most 80"),
        ({"real.holdout_fraction": 0.91}, "9 images for discriminator.split and 91 held-out ones are less .*; give"),
        ({"real.holdout_fraction": 0.02}, "80 images .* 2 held-out"),
        ({"cond": True, "study.ensemble.fitted": False}, "cond is true, and the images have one class"),
        ({"fake.images": 9, "discriminator.split": {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 4}}, "9 im"),
        ({"fake.images": 81}, "fake.images is 81; epochs need as many as real ones: write 80"),
        ({"discriminator.split": {"train": 0.98, "validation": 0.01, "test": 0.01, "seed": 4}}, "80 images .* 20 held"),
    ],
    ids=str,
)
def test_more_than_there_is_is_refused(changes: dict[str, Any], complaint: str) -> None:
    images, held_out = {"real.source": "images", "fake.images": 80}, changes.get("real.holdout_fraction", 0.2)
    read(images).check_counts(80, 20)
    with pytest.raises(UserError, match=complaint):
        read(images | changes).check_counts(100 - round(100 * held_out), round(100 * held_out), 1)
