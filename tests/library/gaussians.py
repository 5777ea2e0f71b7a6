"""Gaussian data, for which denoiser, density ratio and the guided result are known exactly."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from discriminator_guidance.core.noise import marginal_mean, sigma_from_tau
from discriminator_guidance.core.settings import SamplerSettings

SHAPE = (2, 3, 1)  # (C, H, W): six dimensions


@dataclass(frozen=True)
class Gaussian:
    """Independent normal pixels with one mean and one standard deviation."""

    mean: float
    std: float

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x0 + sigma n = x]."""
        return self.mean + self.std**2 / (self.std**2 + sigma.view(-1, 1, 1, 1) ** 2) * (x - self.mean)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p(x; sigma) of the noisy data, up to a constant that all Gaussians share."""
        variance = self.std**2 + sigma.view(-1, 1, 1, 1) ** 2
        return (-0.5 * (x - self.mean) ** 2 / variance - 0.5 * variance.log()).flatten(1).sum(1)


def log_ratio_of(true: Gaussian, wrong: Gaussian):
    """The exact log ratio log p_true/p_wrong as a function of (x_vp, tau)."""

    def log_ratio(x_vp: Tensor, tau: Tensor) -> Tensor:
        x = x_vp / marginal_mean(tau).view(-1, 1, 1, 1)
        sigma = sigma_from_tau(tau)
        return true.log_density(x, sigma) - wrong.log_density(x, sigma)

    return log_ratio


def settings(**changes) -> SamplerSettings:
    """Deterministic sampler settings."""
    return replace(SamplerSettings(), **{"steps": 40, "w1": 0.0, "w2": 0.0, **changes})


def no_noise(step: int, raised: Tensor) -> Tensor:
    """A noise source that must not be asked."""
    raise AssertionError(f"noise drawn at step {step}, though no noise level was raised")


def seeded_latents(count: int) -> Tensor:
    """Starting noise."""
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
