"""EDM noise levels: the sampler's schedule and the training distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The (steps + 1,) float64 noise levels of the sampler, from sigma_max down to sigma_min and 0.

    Karras et al. 2022, Eq. 5.
    """
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def lognormal_sigmas(z: Tensor, p_mean: float, p_std: float) -> Tensor:
    """Training noise levels of standard normal draws z, ln sigma ~ N(p_mean, p_std^2) (Karras et al. 2022, Table 1)."""
    return (p_mean + p_std * z).exp()
