"""EDM noise levels: the sampler's schedule, the training distribution, stochastic churn."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The decreasing noise levels of the sampler, with a final zero.

    Args:
        steps: number of sampler steps, at least 2.
        sigma_min: smallest positive noise level, in units of data scaled to [-1, 1].
        sigma_max: largest noise level.
        rho: exponent; larger values shorten the steps near sigma_min.

    Returns:
        (steps + 1,) float64, from sigma_max down to 0.

    Source: Karras et al. 2022, Eq. 5.
    """
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def churn_gamma(s_churn: Tensor, steps: int) -> Tensor:
    """The relative rise in noise level of a stochastic step.

    Args:
        s_churn: (N,) float64, total stochasticity, at least 0.
        steps: number of sampler steps.

    Returns:
        (N,) gamma in [0, sqrt(2) - 1].

    Source: Karras et al. 2022, Algorithm 2, line 3.
    """
    return (s_churn / steps).clamp(max=math.sqrt(2) - 1)


def lognormal_sigmas(z: Tensor, p_mean: float, p_std: float) -> Tensor:
    """Training noise levels, ln sigma ~ N(p_mean, p_std^2).

    Args:
        z: (N,) standard normal draws.
        p_mean: mean of ln sigma.
        p_std: standard deviation of ln sigma.

    Returns:
        (N,) positive noise levels.

    Source: Karras et al. 2022, Table 1 ("Noise distribution").
    """
    return (p_mean + p_std * z).exp()


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """The EDM loss weight lambda(sigma), which makes every noise level start with an effective weight of 1.

    Args:
        sigma: positive noise levels, any shape.
        sigma_data: standard deviation of the data.

    Returns:
        Weights of the same shape.

    Source: Karras et al. 2022, Table 1 ("Loss weighting").
    """
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
