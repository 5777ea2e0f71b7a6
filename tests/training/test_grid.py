"""The common grid: the same pairs for every head."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from discriminator_guidance import distributed
from discriminator_guidance.training import grid
from discriminator_guidance.training.grid import grid_features, grid_logits, grid_pairs, validate

from .test_discriminator import CPU, Head, brightness, make_pairs

ROWS = np.arange(400)


@pytest.mark.parametrize(("times", "each"), [(8, 8), (5, 1), (6, 4)])
def test_all_times_are_used_equally_often(times, each):
    image, index = grid_pairs(np.arange(30), times, each)
    assert np.bincount(image).tolist() == [each] * 30
    assert np.ptp(np.bincount(index, minlength=times)) <= 1
    assert len(set(zip(image.tolist(), index.tolist(), strict=True))) == len(image)  # no image twice at one time


def test_its_noise_depends_on_seed_image_and_time_alone():
    pairs = make_pairs()
    one, other = (grid_features(brightness, pairs, ROWS, 4, 2, seed) for seed in (3, 4))
    assert not torch.equal(one.features, other.features)
    assert one.labels.tolist() == [1.0] * 400 + [0.0] * 400
    part = grid_features(brightness, pairs, ROWS[100:], 4, 2, 3)
    assert torch.equal(part.features, one.features[200:])
    assert np.array_equal(part.time, one.time[200:])


def test_processes_divide_the_pairs_and_go_through_them_in_batches(monkeypatch):
    pairs, head = make_pairs(), Head()
    whole = grid_features(brightness, pairs, ROWS[:301], 4, 2, 3)
    expected = grid_logits(head, whole, CPU)
    parts = []
    monkeypatch.setattr(grid, "BATCH", 70)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 3)
        monkeypatch.setattr(distributed, "gather_rows", lambda own, count: own)
        own = grid_features(brightness, pairs, ROWS[:301], 4, 2, 3)
        parts.append(grid_logits(head, own, CPU))
    assert torch.allclose(torch.cat(parts), expected, atol=1e-6)


def test_validation_of_a_head_that_knows_nothing_whose_ties_count_as_real():
    head = Head()
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    row = validate(head, grid_features(brightness, make_pairs(), ROWS, 4, 2, 0), CPU)
    assert row == pytest.approx({"validation_loss": math.log(2), "validation_accuracy": 0.5})
