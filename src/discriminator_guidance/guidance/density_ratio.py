"""The guidance score: what a discriminator's log density ratio adds to the EDM slope."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from discriminator_guidance.diffusion.vp_time import marginal_mean, tau_from_sigma

PROBABILITY_CLIP = 1e-5  # a probability closer to 0 or 1 is not taken for true
LOG_RATIO_BOUND = math.log1p(-PROBABILITY_CLIP) - math.log(PROBABILITY_CLIP)

LogRatio = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> (N,) log density ratio, differentiable in x_vp
Guidance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, sigma) -> (score, log ratio)


def clip_log_ratio(log_ratio: Tensor) -> Tensor:
    """The log ratio of a probability clipped to [1e-5, 1 - 1e-5], with gradient 0 outside (Kim et al. 2023, Eq. 8).

    Clamping L is the same as clipping d before L = log d/(1-d), and keeps the digits of L in float32.
    *Deviation:* both limits are +-11.5129; the official float32 limits are -11.5129 and +11.5115.
    """
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def guidance_score(
    log_ratio: LogRatio,
    x: Tensor,
    sigma: Tensor,
    time_min: float,
    time_max: float,
    network_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The guidance term of the EDM slope times sigma, (N, C, H, W) float64, and the log ratio (N,) it comes from.

    With x_vp = mean(tau) x, the term is -sigma^2 mean(tau) grad_{x_vp} L = -sigma^2 grad_x L: the sampler divides it by
    sigma and adds it to dx/dsigma = (x - D) / sigma = -sigma grad log p. Outside the window of VP times the term is 0
    and L is +inf; where L is not finite the term is NaN.

    x: (N, C, H, W) float64 noisy images, unscaled (EDM units); sigma: (N,) float64.

    Kim et al. 2023, Eq. 6-8; the form of the EDM sampler in their Appendix.
    *Deviation:* the official code tests the smallest tau of a batch for all its samples, and marks "outside" by 1e7.
    """
    tau = tau_from_sigma(sigma.double())
    active = (tau >= time_min) & (tau <= time_max)
    score = torch.zeros_like(x, dtype=torch.float64)
    ratio = torch.full_like(tau, math.inf)
    if not bool(active.any()):
        return score, ratio
    mean = marginal_mean(tau).view(-1, 1, 1, 1)
    with torch.inference_mode(False), torch.enable_grad():
        x_vp = (mean * x).to(network_dtype).detach().clone().requires_grad_(True)
        value = log_ratio(x_vp, tau.to(network_dtype).clone())
        (gradient,) = torch.autograd.grad(value.sum(), x_vp)
    # A rule's clip may have made the gradient of what is not finite 0.
    gradient = gradient.masked_fill(~value.isfinite().view(-1, 1, 1, 1), math.nan)
    inside = active.view(-1, 1, 1, 1)
    sigma_squared = sigma.double().view(-1, 1, 1, 1) ** 2
    score = torch.where(inside, -sigma_squared * mean * gradient.double(), score)
    return score, torch.where(active, value.detach().double(), ratio)
