"""The Heun sampler of EDM with discriminator guidance (`heun`), and samples by their index (`sample`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from discriminator_guidance.core.errors import ConfigError, DivergenceError
from discriminator_guidance.core.noise import karras_sigmas, normal, normal_batch, widest
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.sampling.ensemble import Denoiser, innermost
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance, Guidance

Noise = Callable[[int, Tensor], Tensor]  # (step, mask (N,)) -> unit-normal draws; rows outside the mask are not used
States = list[tuple[Tensor, Tensor, Tensor]]  # of each step: the state x, the denoised image, the log ratio

BOOST_PERIOD_CHURN = 5
BOOST_PERIOD_WEIGHT = 2
BOOST_CHURN = 4.0
BOOST_NOISE = 1.0
BOOST_FACTOR = 2.0


def heun(
    denoiser: Denoiser,
    guidance: Guidance | None,
    latents: Tensor,
    noise: Noise,
    settings: SamplerSettings,
    states: States | None = None,
    state_dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Draw (N, C, H, W) samples in state_dtype, about [-1, 1], with Heun's method, guided by a density ratio.

    denoiser: D(x; sigma) of x (N, C, H, W) and sigma (N,) in the dtype of latents. guidance: (x, sigma) -> (score, log
    ratio), such as DiscriminatorGuidance; None samples without guidance. latents: unit-normal starting noise. noise:
    unit-normal draws of a step, asked for only where some sample's noise level is raised. states: a list that receives
    of each step the state x before the noise level is raised, the denoised image and the log ratio (+inf where there is
    none). A state that is not finite raises DivergenceError.

    Karras et al. 2022, Algorithm 2; Kim et al. 2023, Algorithm 1 and the boosting of their Appendix; epsilon scaling:
    Ning et al. 2024.
    *Deviation:* gates and boosting act on single samples (the official gate is batch-wide); noise is drawn only where
    it is used; the second-order guidance is evaluated at (x_next, sigma_next), where the official code stops with an
    indexing error.
    """
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    count, dtype = latents.shape[0], latents.dtype
    x_next = latents.to(state_dtype) * sigmas[0].item()
    log_ratio = torch.full((count,), torch.inf, dtype=state_dtype, device=latents.device)
    for step in range(settings.steps):
        sigma_cur, sigma_next = sigmas[step].item(), sigmas[step + 1].item()
        x_cur = x_next
        x_hat, sigma_hat = _raise_noise(x_cur, sigma_cur, log_ratio, step, noise, settings)

        # Euler step.
        denoised = denoiser(x_hat.to(dtype), sigma_hat.to(dtype)).to(state_dtype)
        log_ratio = torch.full_like(sigma_hat, torch.inf)
        slope = (x_hat - denoised) / _column(sigma_hat) / settings.eps_scale
        if guidance is not None and settings.w1 != 0:
            score, log_ratio = (values.to(state_dtype) for values in guidance(x_hat, sigma_hat))
            if settings.boosting and step % BOOST_PERIOD_WEIGHT == 0:
                score = torch.where(_column(log_ratio) < 0, BOOST_FACTOR * score, score)
            slope = slope + settings.w1 * score / _column(sigma_hat)
        length = _column(sigma_next - sigma_hat)
        x_next = x_hat + length * slope

        # Heun's correction, except in the last step.
        if sigma_next:
            level = torch.full_like(sigma_hat, sigma_next)
            denoised_next = denoiser(x_next.to(dtype), level.to(dtype)).to(state_dtype)
            slope_next = (x_next - denoised_next) / sigma_next / settings.eps_scale
            if guidance is not None and settings.w2 != 0:
                score, _ = guidance(x_next, level)
                slope_next = slope_next + settings.w2 * score.to(state_dtype) / sigma_next
            x_next = x_hat + length * (slope + slope_next) / 2
        if states is not None:
            states.append((x_cur, denoised, log_ratio))
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


EDM_SAMPLER = SamplerSettings()


class Trajectory(NamedTuple):
    """The way of samples through the noise levels."""

    sigma: Tensor  # (steps + 1,) float64, from sigma_max to 0
    states: Tensor  # (steps + 1, N, C, H, W) at these levels; the last ones are the samples
    denoised: Tensor  # (steps, N, C, H, W), the estimates D(x; sigma)
    log_ratio: Tensor  # (steps, N) of the discriminators, +inf where they do not guide


@overload
def sample(
    denoiser: Denoiser, shape: Sequence[int], *, trajectory: Literal[False] = False, **options: Any
) -> Tensor: ...
@overload
def sample(denoiser: Denoiser, shape: Sequence[int], *, trajectory: Literal[True], **options: Any) -> Trajectory: ...
def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    guidance: DiscriminatorGuidance | None = None,
    seed: int = 0,
    first: int | Sequence[int] = 0,
    trajectory: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    state_dtype: torch.dtype | None = None,
    **settings: float,
) -> Tensor | Trajectory:
    """Draw samples (N, C, H, W), about [-1, 1] and not clipped, with EDM's Heun sampler.

    Image i of a seed depends on the seed and i alone, up to rounding.

    Args:
        denoiser: D(x; sigma), the expected x0 of x = x0 + sigma n, from x (N, C, H, W) and sigma (N,), called without
            gradients. Classes come by closure: `partial(network, class_labels=labels)`.
        shape: (N, C, H, W) of the samples.
        guidance: what discriminators add to the slope; None: nothing.
        seed: of the random streams, of which each image has its own.
        first: the i of the first image, or the i of every image.
        trajectory: return a `Trajectory`, which ends in the samples.
        device: where the denoiser computes.
        dtype: in which the denoiser is called and samples are returned.
        state_dtype: in which the sampler itself computes; float64, or float32 on a device that has no float64.
        settings: other values for fields of `SamplerSettings`, such as steps (18) or s_churn; sigma_min and sigma_max
            end where the denoiser's do, if it has such (as `from_diffusers` gives it), also below functools.partial.

    >>> def denoiser(x, sigma):  # of normal data with standard deviation 0.5
    ...     return x * 0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2)
    >>> samples = sample(denoiser, (64, 1, 8, 8))
    >>> samples.shape, round(samples.std().item(), 1)
    (torch.Size([64, 1, 8, 8]), 0.5)
    >>> path = sample(denoiser, (64, 1, 8, 8), trajectory=True)
    >>> path.states.shape, bool(torch.equal(path.states[-1], samples))
    (torch.Size([19, 64, 1, 8, 8]), True)
    >>> bool(torch.allclose(sample(denoiser, (1, 1, 8, 8), first=9), samples[9:10]))
    True
    """
    if unknown := settings.keys() - vars(EDM_SAMPLER).keys():
        allowed = f"allowed are those of sample and {', '.join(vars(EDM_SAMPLER))}"
        raise TypeError(f"sample has no argument {', '.join(sorted(unknown))}; {allowed}")
    model = innermost(denoiser)
    low, high = getattr(model, "sigma_min", 0.0), getattr(model, "sigma_max", math.inf)
    levels = {"sigma_min": max(low, EDM_SAMPLER.sigma_min), "sigma_max": min(high, EDM_SAMPLER.sigma_max)}
    w1, w2 = (0.0, 0.0) if guidance is None else guidance.orders
    chosen = replace(EDM_SAMPLER, **{"w1": w1, "w2": w2, **levels, **settings})  # type: ignore[arg-type]
    if len(shape) != 4 or min(shape) < 1:
        raise ConfigError("a shape (N, C, H, W) of at least one image", str(tuple(shape)), "correct it")
    count, *image = shape
    indices = range(first, first + count) if isinstance(first, int) else first
    if len(indices) != count:
        raise ConfigError(f"the indices of {count} images", f"{len(indices)}", "give one for each")
    if min(seed, *indices) < 0:
        got = f"seed {seed} and first {min(indices)}"
        raise ConfigError("a seed and indices of at least 0", got, "correct them")
    nothing = torch.zeros(*image)

    def noise(step: int, raised: Tensor) -> Tensor:
        rows = zip(indices, raised.tolist(), strict=True)
        return torch.stack([normal(seed, "churn", index, step, image) if used else nothing for index, used in rows])

    latents = normal_batch(seed, "latent", indices, 0, image).to(device, dtype)
    states: States = []
    kept = states if trajectory else None
    with torch.no_grad():
        x = heun(denoiser, guidance, latents, noise, chosen, kept, state_dtype or widest(latents.device)).to(dtype)
    if not trajectory:
        return x
    sigma = karras_sigmas(chosen.steps, chosen.sigma_min, chosen.sigma_max, chosen.rho)
    paths, denoised, log_ratio = (torch.stack(parts).to(dtype) for parts in zip(*states, strict=True))
    return Trajectory(sigma, torch.cat([paths, x.unsqueeze(0)]), denoised, log_ratio)
