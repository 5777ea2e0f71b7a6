"""Streams are pure functions of (seed, purpose, index, step) and never overlap."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from discriminator_guidance.core.noise import normal
from discriminator_guidance.training.loop import seed_dropout


def test_every_part_of_the_name_matters():
    names = [(1, "latent", 5, 0), (2, "latent", 5, 0), (1, "churn", 5, 0), (1, "latent", 6, 0), (1, "latent", 5, 1)]
    draws = [normal(*name, (64,)) for name in names]
    assert all(abs(np.corrcoef(*pair)[0, 1]) < 0.5 for pair in combinations(draws, 2))


def test_known_values():
    # Guards against a silent change of every result by another numpy or another layout of key and counter.
    assert normal(1, "latent", 5, 3, (3,)).tolist() == [0.8574534058570862, -0.09650898724794388, -0.3480731248855591]
    seed_dropout(1, 5)
    assert torch.initial_seed() == 3382149702
