"""The common grid: the same pairs for every member."""

from __future__ import annotations

import torch

from discriminator_guidance.training.grid import accuracy, grid_features

from .test_discriminator import ROWS, features, pictures


def test_grid_noise_is_the_same_for_every_member():
    images, labels = pictures()
    one = grid_features(features, images, labels, None, ROWS, 4, 2, seed=3)
    two = grid_features(features, images, labels, None, ROWS, 4, 2, seed=3)
    other = grid_features(features, images, labels, None, ROWS, 4, 2, seed=4)
    assert torch.equal(one.features, two.features)
    assert not torch.equal(one.features, other.features)
    assert one.labels.tolist() == [1.0] * 400 + [0.0] * 400


def test_accuracy_counts_a_tie_as_real():
    assert accuracy(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0])) == 1.0
    assert accuracy(torch.tensor([0.0, -1.0]), torch.tensor([0.0, 1.0])) == 0.0
