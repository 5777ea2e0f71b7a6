"""VP time and the quantiles of its grid; streams are functions of (seed, purpose, index, step) and never overlap."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from discriminator_guidance.core import noise
from discriminator_guidance.core.noise import importance_times, normal, quantile_grid, sigma_from_tau, tau_from_sigma


@given(st.floats(2e-3, 140.0))
def test_tau_inverts_sigma(sigma):
    tau = tau_from_sigma(torch.tensor(sigma, dtype=torch.float64))
    assert sigma_from_tau(tau).item() == pytest.approx(sigma, rel=1e-9)


def test_grid_times_are_quantiles():
    grid = quantile_grid(8, 1e-5)
    assert (grid.diff() > 0).all()
    assert grid[0] > 1e-5
    assert grid[-1] < 1
    thirds = importance_times(torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=torch.float64), 1e-5)
    assert torch.allclose(quantile_grid(3, 1e-5), thirds, rtol=1e-13)


def test_every_part_of_the_name_matters():
    names = [(1, "latent", 5, 0), (2, "latent", 5, 0), (1, "churn", 5, 0), (1, "latent", 6, 0), (1, "latent", 5, 1)]
    draws = [normal(*name, (64,)) for name in names]
    assert all(abs(np.corrcoef(*pair)[0, 1]) < 0.5 for pair in combinations(draws, 2))


def test_known_values():
    # Guards against a silent change of every result by another numpy or another layout of key and counter.
    assert normal(1, "latent", 5, 3, (3,)).tolist() == [0.8574534058570862, -0.09650898724794388, -0.3480731248855591]
    assert noise.generator(1, "dropout", 5, 0).integers(2**32) == 3382149702
