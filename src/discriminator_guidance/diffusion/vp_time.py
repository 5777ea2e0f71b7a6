"""VP time: the clock in which the discriminator lives, and its map from EDM noise levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETA_MIN = 0.1
BETA_MAX = 20.0
COSINE_OFFSET = 0.008


def beta_integral(t: Tensor) -> Tensor:
    """The integral of beta from 0 to t of the linear schedule 0.1 .. 20.

    Args:
        t: VP times in [0, 1], any shape.

    Returns:
        The integral, same shape and dtype.

    Source: Song et al. 2021, Appendix C (VP SDE).
    """
    return BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2


def marginal_mean(t: Tensor) -> Tensor:
    """The signal scale of x_vp at VP time t, exp(-integral / 2).

    Args:
        t: VP times in [0, 1].

    Returns:
        Scales in (0, 1].

    Source: Song et al. 2021, Eq. 29.
    """
    return torch.exp(-0.5 * beta_integral(t))


def marginal_std(t: Tensor) -> Tensor:
    """The noise scale of x_vp at VP time t, sqrt(1 - exp(-integral)).

    Args:
        t: VP times in [0, 1].

    Returns:
        Scales in [0, 1).

    Source: Song et al. 2021, Eq. 29.
    """
    return torch.sqrt(1 - torch.exp(-beta_integral(t)))


def tau_from_sigma(sigma: Tensor) -> Tensor:
    """The VP time whose noise-to-signal ratio is sigma: sigma^2 = exp(integral) - 1.

    Args:
        sigma: EDM noise levels, at least 0, in units of data scaled to [-1, 1].

    Returns:
        VP times, same shape and dtype.

    Source: Kim et al. 2023, Appendix (time conversion between the EDM sampler and the VP discriminator).
    """
    # The plain logarithm loses nothing that matters in float64, where sampling computes, and rounds in float32 as
    # the official code does.
    return _time_of_integral(torch.log(1 + sigma**2))


def sigma_from_tau(t: Tensor) -> Tensor:
    """The EDM noise level of a VP time, the inverse of `tau_from_sigma`.

    Args:
        t: VP times in [0, 1].

    Returns:
        Noise levels, at least 0.
    """
    return torch.sqrt(torch.expm1(beta_integral(t)))


def importance_antiderivative(t: Tensor) -> Tensor:
    """An antiderivative of the importance weight beta(t) / (1 - exp(-integral beta)).

    Args:
        t: VP times in (0, 1].

    Returns:
        log(exp(integral) - 1).

    Source: Song et al. 2021 (likelihood weighting), as used for the discriminator by Kim et al. 2023.
    """
    integral = beta_integral(t)
    return integral + torch.log(1 - torch.exp(-integral))


def importance_constant(t_min: float) -> float:
    """The normalising constant of the importance weight on [t_min, 1].

    Args:
        t_min: smallest VP time, in (0, 1).

    Returns:
        The integral of the weight over [t_min, 1].

    Deviation: computed in float64; the official code's float32 value is off by 1.2e-2 at t_min = 1e-5.
    """
    ends = torch.tensor([t_min, 1.0], dtype=torch.float64)
    low, high = importance_antiderivative(ends).tolist()
    return float(high - low)


def importance_times(u: Tensor, t_min: float) -> Tensor:
    """Times with density proportional to the importance weight, by inverting its distribution function.

    Args:
        u: uniform draws in [0, 1).
        t_min: smallest VP time, in (0, 1).

    Returns:
        float64 VP times in [t_min, 1], same shape.

    Source: Kim et al. 2023, training of the discriminator; Song et al. 2021.
    """
    low = importance_antiderivative(torch.tensor(t_min, dtype=torch.float64))
    target = low + u.double() * importance_constant(t_min)
    # log(exp(B) - 1) = target, so B = log(1 + exp(target)).
    return _time_of_integral(torch.nn.functional.softplus(target, threshold=40.0))


def uniform_times(u: Tensor, t_min: float) -> Tensor:
    """Times uniform on [t_min, 1].

    Args:
        u: uniform draws in [0, 1).
        t_min: smallest VP time.

    Returns:
        float64 VP times, same shape.
    """
    return t_min + (1 - t_min) * u.double()


def quantile_grid(count: int, t_min: float) -> Tensor:
    """The midpoint quantiles of the importance density: the times on which members are compared.

    Args:
        count: number of times.
        t_min: smallest VP time.

    Returns:
        (count,) float64 VP times, ascending.
    """
    return importance_times((torch.arange(count, dtype=torch.float64) + 0.5) / count, t_min)


def cosine_time(t: Tensor) -> Tensor:
    """The time of the cosine schedule that has the noise-to-signal ratio of a linear-schedule time.

    Args:
        t: VP times of the linear schedule, in [0, 1].

    Returns:
        Times of the cosine schedule, in [0, 1].

    Source: Nichol & Dhariwal 2021 (offset 0.008); Kim et al. 2023 use it for 64x64 pictures.
    """
    angle = torch.acos(math.cos(COSINE_OFFSET / (1 + COSINE_OFFSET) * math.pi / 2) * marginal_mean(t))
    return (2 / math.pi) * (1 + COSINE_OFFSET) * angle - COSINE_OFFSET


def _time_of_integral(integral: Tensor) -> Tensor:
    # The root of 0.1 t + 9.95 t^2 = integral.
    slope = BETA_MAX - BETA_MIN
    return (torch.sqrt(BETA_MIN**2 + 2 * slope * integral) - BETA_MIN) / slope
