"""The score-matching objective: a discriminator learns the gradient that a frozen denoiser lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from discriminator_guidance.core.noise import lognormal_sigmas, marginal_mean, sigma_from_tau, tau_from_sigma
from discriminator_guidance.training.loop import Batch
from discriminator_guidance.training.pairs import Features, Pairs
from discriminator_guidance.training.score import edm_loss


@dataclass(frozen=True)
class ScoreMatching:
    """A denoiser that a logit T learns to correct, D + sigma^2 grad_x T, on noise of ln sigma ~ N(p_mean, p_std^2).

    Only real images are used. T is found up to a function of sigma, so its sign says nothing about real and fake.
    Verine et al. 2025 (arXiv 2503.16117).
    """

    denoiser: Callable[..., Tensor]  # (x, sigma[, classes]) -> D(x; sigma), frozen
    features: Features  # of the frozen extractor, differentiable in x_vp
    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def draw(self, pairs: Pairs, rows: np.ndarray, rng: np.random.Generator, t_min: float) -> Batch:
        """The arguments of `loss` for some rows of the images, at noise levels of VP times in [t_min, 1]."""
        clean = pairs.take(rows)
        z = torch.from_numpy(rng.standard_normal(len(rows), dtype=np.float32))
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(clean.device)
        low, high = sigma_from_tau(torch.tensor([t_min, 1.0], dtype=torch.float64)).tolist()
        sigma = lognormal_sigmas(z, self.p_mean, self.p_std).clamp(low, high).to(clean.device)
        classes = () if pairs.classes is None else (pairs.classes[torch.from_numpy(rows).to(clean.device)],)
        return clean, clean + sigma.view(-1, 1, 1, 1) * noise, sigma, *classes

    def loss(
        self, logit: Callable[..., Tensor], clean: Tensor, noisy: Tensor, sigma: Tensor, *classes: Tensor
    ) -> Tensor:
        """The EDM loss of the corrected denoiser, a mean over pixels: a constant T has that of the denoiser.

        logit: (features, t[, classes]) -> (N,) T. clean, noisy: (N, C, H, W) in units of [-1, 1]; sigma: (N,) float32.
        """
        tau = tau_from_sigma(sigma.double())
        mean, t = marginal_mean(tau).float().view(-1, 1, 1, 1), tau.float()
        with torch.no_grad():
            denoised = self.denoiser(noisy, sigma, *classes).float()
        x_vp = (mean * noisy).requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention cannot be differentiated twice
            total = logit(self.features(x_vp, t), t, *classes).sum()
            (gradient,) = torch.autograd.grad(total, x_vp, create_graph=True)  # grad_x T = mean * gradient
        corrected = denoised + sigma.view(-1, 1, 1, 1) ** 2 * mean * gradient
        return edm_loss(corrected, clean, sigma, self.sigma_data)
