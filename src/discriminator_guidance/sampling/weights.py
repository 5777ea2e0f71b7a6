"""How strongly guidance acts: weights fitted on real images, and the weight that a sampler delivers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.core.errors import ConfigError, DivergenceError, InputError
from discriminator_guidance.core.images import DARK
from discriminator_guidance.core.noise import marginal_mean, normal, scaled, sigma_from_tau, tau_from_sigma, widest
from discriminator_guidance.core.runtime import usable
from discriminator_guidance.core.settings import SamplerSettings, refuse_unknown
from discriminator_guidance.sampling.guidance import Denoiser, Discriminator, DiscriminatorGuidance, checked, gradients
from discriminator_guidance.sampling.sampler import heun

LEVELS, DRAWS = 12, 4  # noise levels from 0.02 to 80, and draws of noise for each image


@dataclass(frozen=True)
class FittedWeights:
    """Weights of members as a function of VP time: linear in ln sigma between noise levels, constant outside."""

    sigma: Tensor  # (T,)
    weights: Tensor  # (T, M) float64

    def __call__(self, tau: Tensor) -> Tensor:
        """The weights (M, N) at VP times (N,)."""
        order, at = self.sigma.argsort(), sigma_from_tau(tau.cpu().double()).log().reshape(-1)
        knots, members = self.sigma[order].double().log(), self.weights[order].T
        return torch.from_numpy(np.stack([np.interp(at, knots, weights) for weights in members]))


def fit_weights(
    denoiser: Denoiser,
    discriminators: Discriminator | Sequence[Discriminator],
    real: np.ndarray | Tensor,
    sigmas: Tensor | None = None,
    ridge: float = 1e-3,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> FittedWeights:
    """The weights, at least 0, with which the members' corrections bring D nearest to real images at noise levels.

    At each sigma they minimise E |x0 - D(x) - sum_m w_m s_m|^2 with x = x0 + sigma n and the correction s_m = sigma^2
    grad_x L_m of member m, L_m its raw logit, plus ridge times w_m^2 E |s_m|^2. With exact members the sum of the
    weights is 1, for D + s is then E[x0 | x]. Negative weights are ruled out: they would push towards the fakes.

    Stacked generalisation (Wolpert 1992; non-negative: Breiman 1996) of denoising score matching (Vincent 2011).

    Args:
        denoiser: D(x; sigma); it and the discriminators take no classes.
        discriminators: as `DiscriminatorGuidance` takes them.
        real: images (N, H, W, C) uint8, or a tensor (N, C, H, W) of uint8 or in [-1, 1]; no discriminator was trained
            on them.
        sigmas: noise levels (T,) above 0; 12 from 0.02 to 80 if not given.
        ridge: relative to the size of the corrections.
        batch_size: of images with noise.
        device: where the networks are; None: where `real` is.

    >>> def discriminator(x_vp, tau):
    ...     return x_vp.sum(dim=(1, 2, 3))
    >>> weights = fit_weights(lambda x, sigma: 0 * x, discriminator, np.full((9, 4, 4, 1), 255, np.uint8))
    >>> DiscriminatorGuidance(discriminator, rule="mean_logit", member_weights=weights).rule
    'mean_logit'
    """
    if real.dtype not in (np.uint8, torch.uint8) and (not isinstance(real, Tensor) or real.min() >= DARK):
        raise InputError("real images are not of uint8, nor floats that go below 0", "give a tensor in [-1, 1]")
    try:
        from scipy.optimize import nnls
    except ImportError as missing:
        raise ConfigError("SciPy, which fits weights, is missing", "pip install scipy") from missing
    images, device = scaled(real).cpu(), usable(device or real.device)
    sigmas = torch.logspace(-1.7, 1.9, LEVELS, device="cpu") if sigmas is None else torch.as_tensor(sigmas).cpu()
    if not (0 <= ridge < math.inf and batch_size >= 1 and sigmas.numel() and (sigmas > 0).all() and images.numel()):
        problem = f"ridge is {ridge}, batch_size {batch_size}, sigmas {sigmas.tolist()}, of {len(images)} images"
        raise ConfigError(problem, "give a ridge of at least 0, and the others above 0")
    members, weights = DiscriminatorGuidance(discriminators), []
    for index, sigma in enumerate(sigmas.view(-1).tolist()):
        clean = torch.cat([images] * DRAWS)
        noise = normal(0, "fitted", index, 0, (DRAWS, *images.shape)).flatten(0, 1)
        batches = zip(torch.split(clean, batch_size), torch.split(noise, batch_size), strict=True)
        parts = [_normal_equations(denoiser, members, x0.to(device), n.to(device), sigma) for x0, n in batches]
        gram, moment = (torch.stack(sums).sum(dim=0).cpu().numpy() for sums in zip(*parts, strict=True))
        if not (np.isfinite(moment).all() and np.isfinite(gram).all()):
            problem = f"corrections or errors are NaN or infinity at sigma = {sigma:.4g}"
            raise DivergenceError(problem, "check the images, the denoiser and the members")
        scale = np.sqrt(np.where(gram.diagonal() > 0, gram.diagonal(), 1.0))  # without a gradient, its weight is 0
        gram = gram / np.outer(scale, scale) + max(ridge, 1e-12) * np.eye(len(gram))  # positive definite
        factor = np.linalg.cholesky(gram)  # |factor^T w - factor^-1 moment|^2 = w^T gram w - 2 w^T moment + constant
        weights.append(nnls(factor.T, np.linalg.solve(factor, moment / scale))[0] / scale)
    return FittedWeights(sigmas.view(-1), torch.from_numpy(np.stack(weights)))


@torch.inference_mode(False)
@torch.enable_grad()
def _normal_equations(
    denoiser: Denoiser, members: DiscriminatorGuidance, x0: Tensor, n: Tensor, sigma: float
) -> tuple[Tensor, Tensor]:
    x0 = x0.to(widest(x0.device))
    x, level = x0 + sigma * n, x0.new_full((len(x0),), sigma)
    with torch.no_grad():
        residual = x0 - checked(denoiser(x.float(), level.float()), x).to(x)
    tau = tau_from_sigma(level)
    mean = marginal_mean(tau).view(-1, *[1] * (x.dim() - 1))
    x_vp = (mean * x).float().requires_grad_(True)
    corrections = (sigma**2 * mean * gradients(members.logits(x_vp, tau.float()), x_vp).to(x)).flatten(1)
    return corrections @ corrections.T, corrections @ residual.flatten()


def delivered_weight(window: tuple[float, float] = (0.01, 1.0), std: float = 0.5, **settings: Any) -> float:
    """The weight that the guidance of a sampler delivers at the VP times of a window, where exact guidance has 1.

    It is exact for a model N(0, std^2) of data N(m, std^2) with their log ratio: the shift of the samples' mean,
    divided by that of the probability flow. It is (w1 + w2) / 2 only for infinitely many steps: a Heun step
    counteracts what its first order adds. A window without sampled times has 0.

    Args:
        window: the VP times with guidance.
        std: of the data.
        settings: fields of `SamplerSettings`; churn and boosting are left out.

    >>> [round(delivered_weight(steps=steps, w1=2.0, w2=0.0), 2) for steps in (12, 18, 35, 1000)]
    [0.38, 0.66, 0.85, 1.0]
    """

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return std**2 / (std**2 + sigma**2) * x

    def log_ratio(x_vp: Tensor, tau: Tensor) -> Tensor:
        return x_vp.flatten(1).sum(dim=1) / marginal_mean(tau) / (std**2 + sigma_from_tau(tau) ** 2)

    refuse_unknown("delivered_weight", settings, vars(SamplerSettings()))
    guidance = DiscriminatorGuidance(log_ratio, window=window, dtype=torch.float64, members=1)
    plain = SamplerSettings(**{**settings, "s_churn": 0.0, "boosting": False})
    start = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    shift = heun(denoiser, guidance, start, lambda step, raised: start, plain)
    ends = sigma_from_tau(torch.tensor(window, dtype=torch.float64)).clamp(max=plain.sigma_max)
    low, high = std / (std**2 + ends**2).sqrt()
    return float(shift / (low - high)) if low > high else 0.0
