"""The common grid: the same pairs for every head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discriminator_guidance.training.pairs import grid_features

from .test_discriminator import brightness, make_pairs

ROWS = np.arange(400)


@pytest.mark.parametrize(("times", "each"), [(8, 8), (5, 1), (6, 4)])
def test_all_times_are_used_equally_often(times, each):
    grid = grid_features(brightness, make_pairs(), ROWS[:30], times, each, 0)
    assert np.bincount(grid.image).tolist() == [each] * 30
    assert np.ptp(np.unique(grid.time, return_counts=True)[1]) <= 1
    assert len(set(zip(grid.image, grid.time, strict=True))) == len(grid.image)  # no image twice at one time


def test_its_noise_depends_on_seed_image_and_time_alone():
    pairs = make_pairs()
    one, other = (grid_features(brightness, pairs, ROWS, 4, 2, seed) for seed in (3, 4))
    assert not torch.equal(one.features, other.features)
    assert one.labels.tolist() == [1.0] * 400 + [0.0] * 400
    part = grid_features(brightness, pairs, ROWS[100:], 4, 2, 3)
    assert torch.equal(part.features, one.features[200:])
    assert np.array_equal(part.time, one.time[200:])
