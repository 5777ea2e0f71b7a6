"""Diffusion rejection sampling (DiffRS): a discriminator rejects steps of the sampler instead of guiding them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.vp_time import marginal_mean, tau_from_sigma
from discriminator_guidance.guidance.density_ratio import LogRatio
from discriminator_guidance.guidance.sampler import Denoiser, Noise, SamplerSettings, heun_step, require_finite


def rejection_thresholds(
    denoiser: Denoiser,
    log_ratio: LogRatio,
    latents: Tensor,
    settings: SamplerSettings,
    time_min: float,
    time_max: float,
    quantile: float = 0.75,
) -> Tensor:
    """The thresholds (2, steps) of the noise levels above 0, from a warm-up batch of latents.

    Row 0 holds c_i, the quantile of L_i(x_i) - L_{i-1}(x_{i-1}), and row 1 b_i, that of L_i(x_i); both are at least 0,
    for they stand for the log of the largest density ratio. Where level i or i - 1 is outside the window of VP times
    they are -inf, which accepts everything.

    Na et al. 2024 (arXiv 2405.17880); quantile 0.75 as in their code for CIFAR-10.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho).to(latents.device)
    inside = [time_min <= tau <= time_max for tau in tau_from_sigma(sigmas).tolist()]
    thresholds = torch.full((2, settings.steps), -torch.inf, dtype=torch.float64, device=latents.device)
    x = latents.double() * sigmas[0]
    before = _log_ratio(log_ratio, x, sigmas[0].expand(len(x)), 0)
    for level in range(1, settings.steps):
        x = _step(denoiser, x, sigmas[level - 1].expand(len(x)), sigmas[level].expand(len(x)), settings)
        if inside[level]:
            value = _log_ratio(log_ratio, x, sigmas[level].expand(len(x)), level)
            if inside[level - 1]:
                thresholds[:, level] = torch.stack([value - before, value]).quantile(quantile, dim=1).clamp(min=0)
            before = value
    return thresholds


def sample_with_rejection(
    denoiser: Denoiser,
    log_ratio: LogRatio,
    latents: Tensor,
    noise: Noise,
    uniform: Callable[[int], Tensor],
    settings: SamplerSettings,
    thresholds: Tensor,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    """Draw (N, C, H, W) float64 samples and count the NFE (N,) of each.

    Each round takes a sample one step, from x_{i-1} to x_i, and accepts that if log u < L_i(x_i) - L_{i-1}(x_{i-1}) -
    c_i. Else noise of variance sigma_{i-1}^2 - sigma_i^2 takes x_i back to level i - 1, where it is accepted if log u <
    L_{i-1} - b_{i-1}, else taken back further. After `rounds` rounds all is accepted. Steps are Heun's, without churn
    or guidance. c, b: `rejection_thresholds`.

    noise, uniform: draw number -> unit-normal and uniform draws; sample i depends on its own draws alone. denoiser and
    log_ratio are called with the samples that are under way, so they must be unconditional.

    Na et al. 2024 (arXiv 2405.17880).
    *Deviation:* latents are not tested; the official code tests down to noise level 0, in any window, and restarts
    samples that exceed a number of NFE.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho).to(latents.device)
    last = max((level for level, c in enumerate(thresholds[0].tolist()) if c >= 0), default=0)
    x = latents.double() * sigmas[0]
    level = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    nfe = torch.zeros_like(level)
    accepted_ratio = _log_ratio(log_ratio, x, sigmas[level], 0)
    for number in count():
        tested = level < last
        if not bool(tested.any()):
            break
        start = level[tested]
        x[tested] = _step(denoiser, x[tested], sigmas[start], sigmas[start + 1], settings)
        level[tested] += 1
        nfe[tested] += 2
        if number >= rounds:
            continue
        bound = accepted_ratio + thresholds[0, level]
        for draw in count(number * settings.steps):  # level 0, at the latest, accepts
            value = accepted_ratio.clone()
            value[tested] = _log_ratio(log_ratio, x[tested], sigmas[level[tested]], number)
            accepted = tested & (uniform(draw).to(x).log() < value - bound)
            accepted_ratio = torch.where(accepted, value, accepted_ratio)
            tested = tested & ~accepted
            if not bool(tested.any()):
                break
            level[tested] -= 1
            spread = (sigmas[level] ** 2 - sigmas[level + 1] ** 2).sqrt().view(-1, 1, 1, 1)
            x = torch.where(tested.view(-1, 1, 1, 1), x + spread * noise(draw, tested).to(x), x)
            bound = thresholds[1, level]
    for step in range(last, settings.steps):
        x = _step(denoiser, x, sigmas[step].expand(len(x)), sigmas[step + 1].expand(len(x)), settings)
        nfe += 2 if step < settings.steps - 1 else 1
        require_finite(x, step, sigmas[step].item())
    return x, nfe


def _step(denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, settings: SamplerSettings) -> Tensor:
    return heun_step(denoiser, None, x, sigma, sigma_next, False, settings)[0]


def _log_ratio(log_ratio: LogRatio, x: Tensor, sigma: Tensor, step: int) -> Tensor:
    tau = tau_from_sigma(sigma)
    with torch.no_grad():
        value = log_ratio((marginal_mean(tau).view(-1, 1, 1, 1) * x).float(), tau.float()).double()
    require_finite(value.unsqueeze(1), step, sigma.max().item())
    return value
