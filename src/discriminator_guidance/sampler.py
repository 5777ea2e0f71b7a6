"""The Heun sampler of EDM with discriminator guidance, and samples by index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from discriminator_guidance.ensemble import Denoiser
from discriminator_guidance.errors import ConfigError, DivergenceError
from discriminator_guidance.guidance import DiscriminatorGuidance, Guidance
from discriminator_guidance.noise import karras_sigmas, normal_batch

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


def heun(
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


# Karras et al. 2022, Table 1: EDM's deterministic sampler.
EDM_SAMPLER = SamplerSettings(
    steps=18, sigma_min=0.002, sigma_max=80.0, rho=7.0, s_churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0,
    eps_scale=1.0, w1=1.0, w2=1.0, boosting=False,
)  # fmt: skip


def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    guidance: DiscriminatorGuidance | None = None,
    steps: int = 18,
    seed: int = 0,
    first: int = 0,
    trajectory: bool = False,
    device: torch.device | str = "cpu",
    **settings: float,
) -> Tensor:
    """Draw float32 samples (N, C, H, W), about [-1, 1] and not clipped, with EDM's Heun sampler.

    denoiser: D(x; sigma), the expected x0 of x = x0 + sigma n, from float32 x (N, C, H, W) and sigma (N,), called
    without gradients. Classes come by closure: `lambda x, sigma: network(x, sigma, labels)`. Image i of a seed depends
    on the seed and i alone, up to rounding; `first` is the i of the first row. trajectory: return the states
    (steps + 1, N, C, H, W) at all noise levels, the samples last. settings: other values for fields of
    `SamplerSettings`, such as s_churn; sigma_min and sigma_max end where the denoiser's do, if it has such (as
    `from_diffusers` gives it).

    >>> def denoiser(x, sigma):  # of normal data with standard deviation 0.5
    ...     return x * 0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2)
    >>> samples = sample(denoiser, (64, 1, 8, 8))
    >>> samples.shape, round(samples.std().item(), 1)
    (torch.Size([64, 1, 8, 8]), 0.5)
    >>> states = sample(denoiser, (64, 1, 8, 8), trajectory=True)
    >>> states.shape, bool(torch.equal(states[-1], samples))
    (torch.Size([19, 64, 1, 8, 8]), True)
    >>> bool(torch.allclose(sample(denoiser, (1, 1, 8, 8), first=9), samples[9:10]))
    True
    """
    if steps < 2 or len(shape) != 4:
        raise ConfigError("at least 2 steps and a shape (N, C, H, W)", f"{steps} and {tuple(shape)}", "correct them")
    count, *image = shape
    indices = range(first, first + count)
    w1, w2 = (0.0, 0.0) if guidance is None else guidance.orders

    def noise(step: int, raised: Tensor) -> Tensor:
        return normal_batch(seed, "churn", indices, step, image)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return denoiser(x.float(), sigma.float())

    latents = normal_batch(seed, "latent", indices, 0, image).to(device)
    low, high = getattr(denoiser, "sigma_min", 0.0), getattr(denoiser, "sigma_max", math.inf)
    levels = {"sigma_min": max(low, EDM_SAMPLER.sigma_min), "sigma_max": min(high, EDM_SAMPLER.sigma_max)}
    chosen = replace(EDM_SAMPLER, **{"steps": steps, "w1": w1, "w2": w2, **levels, **settings})  # type: ignore[arg-type]
    states: list[Tensor] = []
    observe = (lambda step, x, denoised, log_ratio: states.append(x)) if trajectory else None
    with torch.no_grad():
        x = heun(denoise, guidance, latents, noise, chosen, observe)
    return (torch.stack([*states, x]) if trajectory else x).float()
