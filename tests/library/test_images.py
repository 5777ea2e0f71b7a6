"""Images in and out, and the digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from dguide.sources import read_digits
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.images import shrink, to_uint8

DIGITS = Path(__file__).resolve().parents[2] / "data" / "raw" / "digits.npz"


def test_to_uint8_rounds_as_the_official_sampler_and_moves_channels_last():
    samples = np.array([-2.0, -1.0, 0.0, 0.999, 1.0, 5.0]).reshape(6, 1, 1, 1)
    assert to_uint8(torch.from_numpy(samples)).ravel().tolist() == [0, 0, 128, 255, 255, 255]
    samples = np.zeros((2, 3, 4, 5))
    samples[1, 2] = 1.0
    assert to_uint8(torch.from_numpy(samples)).shape == (2, 4, 5, 3)
    assert (to_uint8(torch.from_numpy(samples))[1, ..., 2] == 255).all()


def test_shrinking_agrees_with_pillow_within_rounding():
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    for size in (8, 16):  # at other sizes Pillow weighs pixels differently
        pillow = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BOX)) for i in images])
        assert np.abs(shrink(images, size).astype(int) - pillow.astype(int)).max() <= 1
    for size in (8, 12, 16, 31):
        assert abs(shrink(images, size).mean() - images.mean()) < 0.2  # halves go upwards
    assert (shrink(np.full((1, 32, 32, 1), 200, np.uint8), 12) == 200).all()
    step = np.zeros((1, 3, 3, 1), np.uint8)
    step[0, :, 0] = 240
    assert shrink(step, 2)[0, :, :, 0].tolist() == [[160, 0], [160, 0]]
    with pytest.raises(ValueError, match="at least 48x48"):
        shrink(images, 48)


@pytest.mark.parametrize("image_size", [16, 24])
def test_digits_are_those_of_scikit_learn_enlarged_as_torch_does(image_size):
    source = load_digits()
    small = torch.from_numpy(source.images)[:, None] / 16
    large = interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    digits = read_digits(DIGITS, image_size)
    exact = image_size != 24  # at other sizes torch's own rounding shows
    np.testing.assert_allclose(digits.images[..., 0], 255 * large[:, 0].numpy(), rtol=0, atol=0.5 + 1e-9)
    assert not exact or (digits.images[..., 0] == (255 * large[:, 0]).round().numpy()).all()
    np.testing.assert_array_equal(digits.labels, source.target)
    assert digits.classes == tuple(str(name) for name in source.target_names)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.full((3, 8, 8), 17, np.uint8), np.zeros(3, np.uint8)),
        (np.zeros((3, 8, 8), np.uint8), np.array(["a", "b", "c"])),
        (np.zeros((8, 8), np.uint8), np.uint8(1)),
        (np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.uint8)),
    ],
)
def test_other_arrays_are_no_digits(tmp_path, images, labels):
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    with pytest.raises(InputError, match="from git"):
        read_digits(tmp_path / "d.npz", 8)
