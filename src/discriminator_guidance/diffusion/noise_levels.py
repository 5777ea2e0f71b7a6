"""EDM noise levels: the sampler's schedule, the training distribution, stochastic churn."""

from __future__ import annotations

import math

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


def churn_gamma(s_churn: Tensor, steps: int) -> Tensor:
    """The relative rise in noise level of a stochastic step, in [0, sqrt(2) - 1].

    Karras et al. 2022, Algorithm 2, line 3.
    """
    return (s_churn / steps).clamp(max=math.sqrt(2) - 1)


def lognormal_sigmas(z: Tensor, p_mean: float, p_std: float) -> Tensor:
    """Training noise levels of standard normal draws z, ln sigma ~ N(p_mean, p_std^2) (Karras et al. 2022, Table 1)."""
    return (p_mean + p_std * z).exp()


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """The EDM loss weight lambda(sigma), which gives every noise level an effective weight of 1 at first.

    Karras et al. 2022, Table 1 ("Loss weighting").
    """
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
