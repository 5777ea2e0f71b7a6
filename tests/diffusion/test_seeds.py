"""Streams are pure functions of (seed, purpose, index, step) and never overlap."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from discriminator_guidance.diffusion.seeds import normal, normal_batch, torch_seed


def test_a_stream_depends_on_nothing_else():
    first = normal(1, "latent", 5, 0, (3, 4))
    normal(1, "latent", 6, 0, (100,))
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(first, normal(1, "latent", 5, 0, (3, 4)))


def test_every_part_of_the_name_matters():
    names = [(1, "latent", 5, 0), (2, "latent", 5, 0), (1, "churn", 5, 0), (1, "latent", 6, 0), (1, "latent", 5, 1)]
    draws = [normal(*name, (64,)) for name in names]
    assert all(abs(np.corrcoef(*pair)[0, 1]) < 0.5 for pair in combinations(draws, 2))


def test_a_batch_is_its_samples():
    batch = normal_batch(1, "latent", [9, 4], 2, (2, 2))
    assert torch.equal(batch[0], normal(1, "latent", 9, 2, (2, 2)))
    assert torch.equal(batch[1], normal(1, "latent", 4, 2, (2, 2)))


def test_known_values():
    # Guards against a silent change of every result by another numpy or another layout of key and counter.
    assert normal(1, "latent", 5, 3, (3,)).numpy().tolist() == KNOWN
    assert torch_seed(1, "dropout", 5) == 3382149702


KNOWN = [0.8574534058570862, -0.09650898724794388, -0.3480731248855591]
