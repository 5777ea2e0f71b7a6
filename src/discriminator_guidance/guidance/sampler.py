"""The Heun sampler of EDM with discriminator guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.guidance.density_ratio import Guidance

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> D(x; sigma), sigma (N,)
Noise = Callable[[int, Tensor], Tensor]  # (step, mask (N,)) -> unit-normal draws; rows outside the mask are not used
Observer = Callable[[int, Tensor, Tensor, Tensor], None]  # (step, x, denoised, log ratio)

BOOST_PERIOD_CHURN = 5
BOOST_PERIOD_WEIGHT = 2
BOOST_CHURN = 4.0
BOOST_NOISE = 1.0
BOOST_FACTOR = 2.0


@dataclass(frozen=True)
class SamplerSettings:
    """The settings of the sampler, in the symbols of Karras et al. 2022 and Kim et al. 2023."""

    steps: int
    sigma_min: float
    sigma_max: float
    rho: float
    s_churn: float
    s_min: float
    s_max: float
    s_noise: float
    eps_scale: float
    w1: float
    w2: float
    boosting: bool


def sample(
    denoiser: Denoiser,
    guidance: Guidance | None,
    latents: Tensor,
    noise: Noise,
    settings: SamplerSettings,
    observe: Observer | None = None,
) -> Tensor:
    """Draw (N, C, H, W) float64 samples, about [-1, 1], with Heun's method, guided by a density ratio.

    denoiser: D(x; sigma) with x (N, C, H, W) float64 and sigma (N,) float64. guidance: (x, sigma) -> (score, log
    ratio), see `density_ratio.guidance_score`; None samples without guidance. latents: unit-normal starting noise.
    noise: unit-normal draws of a step, asked for only where some sample's noise level is raised. observe: called at the
    start of each step with the step, the state x (before the noise level is raised), the denoised image and the log
    ratio (+inf where there is none). A state that is not finite raises DivergenceError.

    Karras et al. 2022, Algorithm 2; Kim et al. 2023, Algorithm 1 and the boosting of their Appendix; epsilon scaling:
    Ning et al. 2024.
    *Deviation:* gates and boosting act on single samples (the official gate is batch-wide); noise is drawn only where
    it is used; the second-order guidance is evaluated at (x_next, sigma_next), where the official code stops with an
    indexing error.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    count = latents.shape[0]
    x_next = latents.double() * sigmas[0].item()
    log_ratio = torch.full((count,), torch.inf, dtype=torch.float64, device=latents.device)
    for step in range(settings.steps):
        sigma_cur, sigma_next = sigmas[step].item(), sigmas[step + 1].item()
        x_cur = x_next
        x_hat, sigma_hat = _raise_noise(x_cur, sigma_cur, log_ratio, step, noise, settings)

        # Euler step.
        denoised = denoiser(x_hat, sigma_hat).double()
        log_ratio = torch.full_like(sigma_hat, torch.inf)
        slope = (x_hat - denoised) / _column(sigma_hat) / settings.eps_scale
        if guidance is not None and settings.w1 != 0:
            score, log_ratio = guidance(x_hat, sigma_hat)
            if settings.boosting and step % BOOST_PERIOD_WEIGHT == 0:
                score = torch.where(_column(log_ratio) < 0, BOOST_FACTOR * score, score)
            slope = slope + settings.w1 * score / _column(sigma_hat)
        length = _column(sigma_next - sigma_hat)
        x_next = x_hat + length * slope

        # Heun's correction, except in the last step.
        if sigma_next:
            level = torch.full_like(sigma_hat, sigma_next)
            slope_next = (x_next - denoiser(x_next, level).double()) / sigma_next / settings.eps_scale
            if guidance is not None and settings.w2 != 0:
                score, _ = guidance(x_next, level)
                slope_next = slope_next + settings.w2 * score / sigma_next
            x_next = x_hat + length * (slope + slope_next) / 2
        if observe is not None:
            observe(step, x_cur, denoised, log_ratio)
        require_finite(x_next, step, sigma_cur)
    return x_next


def require_finite(x: Tensor, step: int, sigma: float) -> None:
    """Stop with the first row (N, ...) that holds NaN or infinity."""
    finite = torch.isfinite(x).flatten(1).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise DivergenceError(
            "finite samples",
            f"NaN or infinity in row {row} of the batch after step {step + 1}, at sigma = {sigma:.4g}",
            "lower w1 and w2, or check the weights of the score network and of the members",
        )


def _raise_noise(
    x: Tensor, sigma: float, log_ratio: Tensor, step: int, noise: Noise, settings: SamplerSettings
) -> tuple[Tensor, Tensor]:
    # Churn (Karras et al. 2022, Algorithm 2, lines 3-6); boosting raises it for samples that looked fake last time.
    churn = torch.full_like(log_ratio, settings.s_churn)
    scale = torch.full_like(log_ratio, settings.s_noise)
    if settings.boosting and step % BOOST_PERIOD_CHURN == 0:
        looked_fake = log_ratio < 0
        churn = torch.where(looked_fake, torch.full_like(churn, BOOST_CHURN), churn)
        scale = torch.where(looked_fake, torch.full_like(scale, BOOST_NOISE), scale)
    if not settings.s_min <= sigma <= settings.s_max:
        churn = torch.zeros_like(churn)
    gamma = (churn / settings.steps).clamp(max=math.sqrt(2) - 1)
    sigma_hat = sigma * (1 + gamma)
    raised = gamma > 0
    if not bool(raised.any()):
        return x, sigma_hat
    spread = _column((sigma_hat**2 - sigma**2).sqrt() * scale)
    drawn = noise(step, raised).to(device=x.device, dtype=x.dtype)
    return torch.where(_column(raised), x + spread * drawn, x), sigma_hat


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
