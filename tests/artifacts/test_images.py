"""Pictures in and out."""

from __future__ import annotations

import numpy as np
from PIL import Image

from discriminator_guidance.artifacts.images import content_digest, to_uint8, write_grid


def test_to_uint8_rounds_as_the_official_sampler():
    samples = np.array([-2.0, -1.0, 0.0, 0.999, 1.0, 5.0]).reshape(6, 1, 1, 1)
    assert to_uint8(samples).ravel().tolist() == [0, 0, 128, 255, 255, 255]


def test_to_uint8_moves_channels_last():
    samples = np.zeros((2, 3, 4, 5))
    samples[1, 2] = 1.0
    images = to_uint8(samples)
    assert images.shape == (2, 4, 5, 3)
    assert (images[1, ..., 2] == 255).all()


def test_digest_depends_on_shape_and_pixels():
    images = np.arange(16, dtype=np.uint8)
    assert content_digest(images.reshape(1, 4, 4, 1)) != content_digest(images.reshape(4, 2, 2, 1))
    assert content_digest(images.reshape(1, 4, 4, 1)) != content_digest((images + 1).reshape(1, 4, 4, 1))


def test_grid_shows_grey_and_colour(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB")):
        images = np.full((14, 8, 8, channels), 7, dtype=np.uint8)
        write_grid(tmp_path / "g.png", images)
        picture = Image.open(tmp_path / "g.png")
        assert picture.mode == mode
        assert picture.size == (12 * (6 * 8 + 2), 2 * (6 * 8 + 2))
        assert (np.asarray(picture)[:48, :48] == 7).all()
        assert (np.asarray(picture)[60:, 400:] == 255).all()  # the second row has two pictures
