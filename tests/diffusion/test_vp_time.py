"""VP time: inverses, limits and the importance density."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from discriminator_guidance.diffusion.vp_time import (
    beta_integral,
    importance_constant,
    importance_times,
    marginal_mean,
    marginal_std,
    quantile_grid,
    sigma_from_tau,
    tau_from_sigma,
)


@given(st.floats(2e-3, 140.0))
def test_tau_inverts_sigma(sigma):
    tau = tau_from_sigma(torch.tensor(sigma, dtype=torch.float64))
    assert sigma_from_tau(tau).item() == pytest.approx(sigma, rel=1e-9)


def test_sigma_is_noise_over_signal():
    t = torch.linspace(1e-4, 1, 50, dtype=torch.float64)
    assert torch.allclose(sigma_from_tau(t), marginal_std(t) / marginal_mean(t))
    assert torch.allclose(marginal_std(t) ** 2 + marginal_mean(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("t_min", [1e-5, 1e-3, 0.01])
def test_importance_times_follow_beta_over_one_minus_exp(t_min):
    u = torch.linspace(0, 1, 4001, dtype=torch.float64)
    t = importance_times(u, t_min)
    assert t[0].item() == pytest.approx(t_min, rel=1e-6)
    assert t[-1].item() == pytest.approx(1.0)
    beta = 0.1 + 19.9 * t
    density = beta / (1 - torch.exp(-beta_integral(t))) / importance_constant(t_min)
    # du/dt by central differences against the density.
    slope = (u[2:] - u[:-2]) / (t[2:] - t[:-2])
    assert torch.allclose(slope, density[1:-1], rtol=2e-2)


def test_grid_times_are_quantiles():
    grid = quantile_grid(8, 1e-5)
    assert (grid.diff() > 0).all()
    assert grid[0] > 1e-5
    assert grid[-1] < 1
    thirds = importance_times(torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=torch.float64), 1e-5)
    assert torch.allclose(quantile_grid(3, 1e-5), thirds, rtol=1e-13)
