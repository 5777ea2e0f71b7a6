"""The common grid: the same pairs for every member."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.errors import UserError
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.grid import accuracy, grid_features, grid_logits

from .test_discriminator import ROWS, Head, features, grid_batches, pictures


def test_grid_noise_is_the_same_for_every_member():
    images, labels = pictures()
    one = grid_features(features, images, labels, None, ROWS, 4, 2, 3, grid_batches())
    two = grid_features(features, images, labels, None, ROWS, 4, 2, 3, grid_batches())
    other = grid_features(features, images, labels, None, ROWS, 4, 2, 4, grid_batches())
    assert torch.equal(one.features, two.features)
    assert not torch.equal(one.features, other.features)
    assert one.labels.tolist() == [1.0] * 400 + [0.0] * 400


def with_room_for(room: int, network):
    def run(x, t):
        if len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(x, t)

    return run


class Crowded(Head):
    """A head on a device with room for 100 feature maps; hooks overhear each part of the grid once."""

    def forward(self, features, t, labels=None):
        return with_room_for(100, super().forward)(features, t)


def test_an_exhausted_device_takes_the_grid_in_smaller_passes():
    images, labels = pictures()
    grid = (images, labels, None, ROWS, 4, 2, 3)
    usual = grid_features(features, *grid, grid_batches())
    told: list[str] = []
    crowded = grid_features(with_room_for(300, features), *grid, BatchSize(512, told.append))
    assert crowded.at_once.halved == (256,)
    assert torch.equal(crowded.features, usual.features)

    head, compute = Crowded(), Compute(torch.device("cpu"), "float32")
    heard: list[int] = []
    head.register_forward_hook(lambda module, given, logits: heard.append(len(logits)))
    logits = grid_logits(head, crowded, compute)
    assert crowded.at_once.halved == (256, 128, 64)
    assert sum(heard) == len(logits) == len(usual.t)
    usual_head = Head()
    usual_head.load_state_dict(head.state_dict())
    torch.testing.assert_close(logits, grid_logits(usual_head, usual, compute))
    assert len(told) == 3


def test_a_single_pair_of_the_grid_that_does_not_fit_is_one_line():
    images, labels = pictures()
    with pytest.raises(UserError, match="one picture at a time"):
        grid_features(with_room_for(0, features), images, labels, None, ROWS, 4, 2, 3, grid_batches())


def test_accuracy_counts_a_tie_as_real():
    assert accuracy(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0])) == 1.0
    assert accuracy(torch.tensor([0.0, -1.0]), torch.tensor([0.0, 1.0])) == 0.0
