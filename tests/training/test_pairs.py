"""Splits, grids and noised batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.training.pairs import (
    as_tensor,
    draw_noised,
    grid_pairs,
    scaled,
    split_pairs,
    vp_noised,
)


def test_split_is_a_partition_with_the_same_shares_of_real_and_fake():
    split = split_pairs(100, 60, 0.8, 0.1, seed=0)
    rows = np.concatenate([split.train, split.validation, split.test])
    assert sorted(rows) == list(range(160))
    assert [(part < 100).sum() for part in (split.train, split.validation, split.test)] == [80, 10, 10]
    assert [(part >= 100).sum() for part in (split.train, split.validation, split.test)] == [48, 6, 6]


def test_split_depends_on_its_seed_alone():
    assert np.array_equal(split_pairs(50, 50, 0.8, 0.1, 1).test, split_pairs(50, 50, 0.8, 0.1, 1).test)
    assert not np.array_equal(split_pairs(50, 50, 0.8, 0.1, 1).test, split_pairs(50, 50, 0.8, 0.1, 2).test)


@pytest.mark.parametrize(("times", "each"), [(8, 8), (5, 1), (6, 4)])
def test_grid_uses_all_times_equally_often(times, each):
    image, index = grid_pairs(np.arange(30), times, each)
    assert np.bincount(image).tolist() == [each] * 30
    assert np.ptp(np.bincount(index, minlength=times)) <= 1
    assert len(set(zip(image.tolist(), index.tolist(), strict=True))) == len(image)  # no image twice at one time


def test_scaled_ends():
    assert scaled(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_as_tensor_moves_channels_first():
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    assert as_tensor(images, torch.device("cpu"))[1, 4, 2, 3] == images[1, 2, 3, 4]


def test_ends_of_time_are_picture_and_noise():
    images, noise = torch.ones(3, 1, 2, 2), torch.full((3, 1, 2, 2), 2.0)
    x = vp_noised(images, torch.tensor([1e-9, 0.5, 1.0], dtype=torch.float64), noise)
    assert x[0].mean().item() == pytest.approx(1.0, abs=1e-3)
    assert x[2].mean().item() == pytest.approx(2.0, abs=2e-2)


def test_noised_batch_mixes_uniform_and_importance_sampled_times():
    images = torch.zeros(4000, 1, 1, 1, dtype=torch.uint8)
    labels = torch.arange(4000)
    batch = draw_noised(images, labels, generator(0, "x", 0, 0), 1e-3, 0.5)
    assert torch.equal(batch.labels, labels)
    assert batch.t.min() >= 1e-3 - 1e-9
    assert batch.t[:2000].mean().item() == pytest.approx(0.5, abs=0.02)
    assert batch.t[2000:].median() < 0.35  # importance sampling prefers small times


def test_flip_mirrors_half_of_the_pictures():
    images = torch.zeros(1000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    batch = draw_noised(images, torch.zeros(1000), generator(0, "x", 0, 0), 1e-9, 1.0, flip=True)
    t0 = draw_noised(images, torch.zeros(1000), generator(0, "x", 0, 0), 1e-9, 1.0, flip=False)
    mirrored = ((batch.x_vp - t0.x_vp).abs().flatten(1).sum(1) > 1e-6).float().mean().item()
    assert 0.45 < mirrored < 0.55
