"""Diffusion rejection sampling (DiffRS): a discriminator rejects steps of the sampler instead of guiding them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.vp_time import marginal_mean, tau_from_sigma
from discriminator_guidance.guidance.density_ratio import LogRatio
from discriminator_guidance.guidance.sampler import Denoiser, SamplerSettings, heun_step, require_finite

RetryNoise = Callable[[int, Tensor, int], Tensor]  # (step, mask (N,), attempt) -> unit-normal draws like the latents
RetryUniform = Callable[[int, int], Tensor]  # (step, attempt) -> (N,) uniform draws


def rejection_thresholds(
    denoiser: Denoiser,
    log_ratio: LogRatio,
    latents: Tensor,
    settings: SamplerSettings,
    time_min: float,
    time_max: float,
    quantile: float = 0.75,
) -> list[float]:
    """The threshold c of each step: the quantile of the rise of the log ratio in a warm-up batch, and at least 0.

    -inf, which accepts everything, marks the steps that begin or end outside the window of VP times. exp(c) estimates
    the constant M of rejection sampling, the largest density ratio of the transitions, which is 1 or more.

    Na et al. 2024 (arXiv 2405.17880); quantile 0.75 as in their code for CIFAR-10.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    inside = [time_min <= tau <= time_max for tau in tau_from_sigma(sigmas).tolist()]
    x = latents.double() * sigmas[0].item()
    thresholds = []
    for step in range(settings.steps):
        start = x
        x = _step(denoiser, start, sigmas, step, settings)
        if inside[step] and inside[step + 1]:
            thresholds.append(max(0.0, _rise(log_ratio, start, x, sigmas, step).quantile(quantile).item()))
        else:
            thresholds.append(-torch.inf)
    return thresholds


def sample_with_rejection(
    denoiser: Denoiser,
    log_ratio: LogRatio,
    latents: Tensor,
    noise: RetryNoise,
    uniform: RetryUniform,
    settings: SamplerSettings,
    thresholds: list[float],
    repeats: int = 20,
) -> tuple[Tensor, Tensor]:
    """Draw (N, C, H, W) float64 samples and count the NFE (N,) of each.

    A step from x_{i-1} to x_i is accepted if log u < L_i(x_i) - L_{i-1}(x_{i-1}) - c_i, with c_i its threshold. Else
    noise of variance sigma_{i-1}^2 - sigma_i^2 takes x_i back to level i - 1, and the step is repeated; the last of the
    repeats is accepted. Steps are Heun's, without churn or guidance. denoiser and log_ratio are called with the rows
    that are not accepted yet, so they must be unconditional.

    Na et al. 2024 (arXiv 2405.17880).
    *Deviation:* the latents are not tested, and a state that was taken back is not tested at its own level; the
    official code may take it back further, and restarts samples that exceed an NFE limit.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    x = latents.double() * sigmas[0].item()
    nfe = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for step, threshold in enumerate(thresholds):
        sigma, sigma_next = sigmas[step].item(), sigmas[step + 1].item()
        start, open_rows = x.clone(), torch.ones(len(x), dtype=torch.bool, device=x.device)
        for attempt in range(repeats + 1):
            x[open_rows] = _step(denoiser, start[open_rows], sigmas, step, settings)
            nfe[open_rows] += 2 if sigma_next > 0 else 1
            if threshold == -torch.inf or attempt == repeats:
                break
            rise = _rise(log_ratio, start[open_rows], x[open_rows], sigmas, step)
            draws = uniform(step, attempt).to(x)[open_rows]
            open_rows[open_rows.clone()] = draws.log() >= rise - threshold
            if not bool(open_rows.any()):
                break
            drawn = noise(step, open_rows, attempt).to(x)
            start[open_rows] = x[open_rows] + (sigma**2 - sigma_next**2) ** 0.5 * drawn[open_rows]
        require_finite(x, step, sigma)
    return x, nfe


def _step(denoiser: Denoiser, x: Tensor, sigmas: Tensor, step: int, settings: SamplerSettings) -> Tensor:
    sigma = torch.full((len(x),), sigmas[step].item(), dtype=torch.float64, device=x.device)
    return heun_step(denoiser, None, x, sigma, sigmas[step + 1].item(), False, settings)[0]


def _rise(log_ratio: LogRatio, start: Tensor, end: Tensor, sigmas: Tensor, step: int) -> Tensor:
    ratios = []
    for x, sigma in zip((start, end), sigmas[step : step + 2].tolist(), strict=True):
        tau = tau_from_sigma(torch.full((len(x),), sigma, dtype=torch.float64, device=x.device))
        with torch.no_grad():
            ratios.append(log_ratio((marginal_mean(tau).view(-1, 1, 1, 1) * x).float(), tau.float()).double())
    rise = ratios[1] - ratios[0]
    require_finite(rise.unsqueeze(1), step, sigmas[step].item())
    return rise
