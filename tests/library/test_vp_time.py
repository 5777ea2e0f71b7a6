"""VP time: the inverse of noise levels, and the quantiles of the grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from discriminator_guidance.core.noise import importance_times, quantile_grid, sigma_from_tau, tau_from_sigma


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
