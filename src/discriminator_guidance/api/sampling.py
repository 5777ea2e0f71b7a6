"""Sample from any denoiser D(x; sigma), guided by any discriminator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.data import images
from discriminator_guidance.diffusion.seeds import normal_batch
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.guidance import sampler
from discriminator_guidance.guidance.density_ratio import guidance_score
from discriminator_guidance.guidance.ensemble import RULES, SHRUNK, WeightsOfTime, combine, simplex_weights
from discriminator_guidance.guidance.sampler import Denoiser, SamplerSettings

Discriminator = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> raw logits (N,), or (M, N) of M members
Schedule = Callable[[Tensor], Tensor]  # sigma (N,) -> guidance weight (N,)

# Karras et al. 2022, Table 1: EDM's deterministic sampler.
EDM_SAMPLER = SamplerSettings(
    steps=18, sigma_min=0.002, sigma_max=80.0, rho=7.0, s_churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0,
    eps_scale=1.0, w1=1.0, w2=1.0, boosting=False,
)  # fmt: skip


@dataclass(frozen=True)
class DiscriminatorGuidance:
    """Guidance by the log density ratio of one or several discriminators (Kim et al. 2023, Eq. 6-8).

    discriminators: (x_vp, tau) -> raw logits (N,) or (N, 1), above 0 for real; or several; or one that returns the
    (M, N) logits of M members. x_vp = x / (1 + sigma^2)^(1/2) are noisy images (N, C, H, W) float32, in which logits
    must be differentiable; tau (N,) their VP times. Classes come by closure. weight: of both orders; (w1, w2) of the
    Euler step and of Heun's correction; or a function of sigma (N,). rule: a key of `ensemble.RULES`, or
    `shrunk_mean_logit`. window: the VP times with guidance. member_weights: one for each member, or a function of VP
    time; equal if not given.

    >>> guidance = DiscriminatorGuidance(lambda x_vp, tau: x_vp.mean(dim=(1, 2, 3)), weight=lambda sigma: sigma < 1)
    >>> score, log_ratio = guidance(torch.ones(2, 1, 4, 4).double(), torch.tensor([0.5, 2.0]).double())
    >>> score.flatten(1).any(dim=1).tolist()
    [True, False]
    """

    discriminators: Discriminator | Sequence[Discriminator]
    weight: float | tuple[float, float] | Schedule = 1.0
    rule: str = "mean_probability"
    window: tuple[float, float] = (0.01, 1.0)
    member_weights: Sequence[float] | WeightsOfTime | None = None

    def __post_init__(self) -> None:
        if self.rule not in (rules := (*RULES, SHRUNK)):
            raise ConfigError("a rule for several discriminators", repr(self.rule), f"choose from: {', '.join(rules)}")
        if self.window[0] > self.window[1]:
            raise ConfigError("a window (first, last) of VP times", str(self.window), "exchange its ends")

    @property
    def orders(self) -> tuple[float, float]:
        """The weights w1 and w2 by which a Heun step multiplies the score; 1 with a schedule, which is part of it."""
        if callable(self.weight):
            return 1.0, 1.0
        return (self.weight, self.weight) if isinstance(self.weight, int | float) else self.weight

    def __call__(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The score (N, C, H, W) and the log ratio (N,) of `density_ratio.guidance_score` at float64 x and sigma."""
        score, log_ratio = guidance_score(self._log_ratio, x, sigma, *self.window)
        if callable(self.weight):
            score = torch.as_tensor(self.weight(sigma)).to(score).view(-1, 1, 1, 1) * score
        return score, log_ratio

    def denoise(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser D + w sigma^2 grad_x L, for other samplers; w is the mean of w1 and w2.

        >>> guided = DiscriminatorGuidance(lambda x_vp, tau: x_vp.sum(dim=(1, 2, 3))).denoise(lambda x, sigma: 0 * x)
        >>> guided(torch.zeros(1, 1, 1, 1), torch.ones(1)).item() > 0
        True
        """

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            score, _ = self(x.double(), sigma.double())
            return denoiser(x, sigma) - (sum(self.orders) / 2 * score).to(x.dtype)

        return guided

    def _log_ratio(self, x_vp: Tensor, tau: Tensor) -> Tensor:
        single = callable(self.discriminators) and not isinstance(self.discriminators, torch.nn.ModuleList)
        members: Any = [self.discriminators] if single else self.discriminators
        found, count = [member(x_vp, tau) for member in members], len(tau)
        if wrong := [logits.shape for logits in found if count not in (logits.numel(), *logits.shape[-1:])]:
            expected = f"logits of shape ({count},) or (M, {count})"
            raise ConfigError(expected, str(tuple(wrong[0])), "give one for each image")
        logits = torch.cat([logits.reshape(-1, count) for logits in found])
        weights = simplex_weights("equal", len(logits)) if self.member_weights is None else self.member_weights
        if not callable(weights) and len(weights) != len(logits):
            raise ConfigError(f"{len(logits)} member_weights", str(len(weights)), "give one for each discriminator")
        if self.rule == SHRUNK and len(logits) < 2:
            raise ConfigError(f"two or more discriminators for {SHRUNK}", "one", "choose another rule")
        return combine(lambda *_: logits, self.rule, weights)(x_vp, tau)


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
        x = sampler.sample(denoise, guidance, latents, noise, chosen, observe)
    return (torch.stack([*states, x]) if trajectory else x).float()


def to_uint8(samples: Tensor) -> NDArray[np.uint8]:
    """Images (N, H, W, C) of samples (N, C, H, W) in about [-1, 1], clipped and rounded as EDM's generator does.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]).view(1, 3, 1, 1)).ravel().tolist()
    [0, 128, 255]
    """
    return images.to_uint8(samples.detach().float().cpu().numpy())
