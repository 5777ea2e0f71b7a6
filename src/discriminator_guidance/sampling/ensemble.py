"""What ensembles need beyond a mean: gradients shrunk where members disagree, and weights fitted by noise level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.core.noise import marginal_mean, sigma_from_tau, tau_from_sigma

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> D(x; sigma), sigma (N,)
RawLogits = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> (M, N) raw logits, differentiable in x_vp
WeightsOfTime = Callable[[Tensor], Tensor]  # tau -> (M, N) weights, or (M, 1) for one tau


def member_gradients(logits: Tensor, x_vp: Tensor) -> Tensor:
    """The gradient of each member's logit (M, N) in the images x_vp (N, C, H, W): (M, N, C, H, W)."""
    with torch.autocast(x_vp.device.type, enabled=False):  # the forward pass has chosen all formats
        return torch.stack([torch.autograd.grad(row.sum(), x_vp, retain_graph=True)[0] for row in logits])


def shrunk_mean_logit(logits: Tensor, x_vp: Tensor) -> Tensor:
    """The mean of two or more logits (M, N), with its gradient g shrunk to 0 where their gradients g_m disagree.

    The gradient of a sample is s g with s = max(0, 1 - sum_m |g_m - g|^2 / (M (M - 1) |g|^2)). The fraction is the
    share of |g|^2 that the scatter of the members explains. To be differentiated once.

    James & Stein 1961, with the positive part of Baranchik 1964.
    """
    slopes = member_gradients(logits, x_vp)
    slope, members = slopes.mean(dim=0), len(slopes)
    scatter = (slopes - slope).square().flatten(2).sum(dim=(0, 2)) / (members * (members - 1))
    power = slope.square().flatten(1).sum(dim=1).clamp(min=torch.finfo(slope.dtype).tiny)
    shrunk = (1 - scatter / power).clamp(min=0).view(-1, 1, 1, 1) * slope
    # The tangent at x_vp: the mean logit there, with the shrunk gradient.
    return logits.detach().mean(dim=0, dtype=x_vp.dtype) + (shrunk * (x_vp - x_vp.detach())).flatten(1).sum(dim=1)


def fit_weights(
    denoiser: Denoiser,
    member_logits: RawLogits,
    images: Tensor,
    sigmas: Tensor,
    noise: Callable[[int], Tensor],
    ridge: float = 1e-3,
    batch_size: int = 256,
) -> Tensor:
    """The (T, M) float64 weights, at least 0, with which the members' corrections bring D nearest to the real images.

    At each sigma they minimise E |x0 - D(x) - sum_m w_m s_m|^2 with x = x0 + sigma n and the correction s_m = sigma^2
    grad_x L_m of member m, L_m its raw logit, plus ridge times w_m^2 E |s_m|^2. With exact members the sum of the
    weights is 1, for D + s is then E[x0 | x]. Negative weights are ruled out: they would push towards the fakes.

    images: (N, C, H, W) x0 in [-1, 1]. sigmas: (T,) noise levels above 0. noise: index of a noise level -> unit-normal
    draws, shaped like images or (draws, N, C, H, W).

    Stacked generalisation (Wolpert 1992; non-negative: Breiman 1996) of denoising score matching (Vincent 2011).
    """
    weights = []
    for index, sigma in enumerate(sigmas.tolist()):
        drawn = noise(index).to(images.device)
        clean = images.expand_as(drawn).double()
        batches = zip(*(torch.split(x.flatten(0, -4), batch_size) for x in (clean, drawn)), strict=True)
        parts = [_normal_equations(denoiser, member_logits, x0, n, sigma) for x0, n in batches]
        gram, moment = (torch.stack(sums).sum(dim=0).cpu().numpy() for sums in zip(*parts, strict=True))
        weights.append(_non_negative_ridge(gram, moment, ridge))
    return torch.from_numpy(np.stack(weights))


def interpolated(fit_sigma: Tensor, fit_weights: Tensor) -> WeightsOfTime:
    """Weights (T, M) at noise levels (T,) as a function of VP time: linear in ln sigma, constant outside."""
    order = fit_sigma.argsort()
    knots, values = fit_sigma[order].double().log(), fit_weights[order].double()

    def weights_of(tau: Tensor) -> Tensor:
        at = sigma_from_tau(tau.double()).log().cpu().reshape(-1)
        right = torch.searchsorted(knots, at).clamp(1, len(knots) - 1)
        share = ((at - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1).unsqueeze(1)
        return torch.lerp(values[right - 1], values[right], share).T

    return weights_of


def _normal_equations(
    denoiser: Denoiser, member_logits: RawLogits, x0: Tensor, n: Tensor, sigma: float
) -> tuple[Tensor, Tensor]:
    x, level = x0 + sigma * n, x0.new_full((len(x0),), sigma)
    with torch.no_grad():
        residual = x0 - denoiser(x, level).double()
    tau = tau_from_sigma(level)
    mean = marginal_mean(tau).view(-1, 1, 1, 1)
    x_vp = (mean * x).float().requires_grad_(True)
    gradients = member_gradients(member_logits(x_vp, tau.float()), x_vp).double()
    corrections = (sigma**2 * mean * gradients).flatten(1)
    return corrections @ corrections.T, corrections @ residual.flatten()


def _non_negative_ridge(gram: np.ndarray, moment: np.ndarray, ridge: float) -> np.ndarray:
    from scipy.optimize import nnls  # a fifth of a second, which other variants need not wait for

    scale = np.sqrt(gram.diagonal())
    scale = np.where(scale > 0, scale, 1.0)  # a member without a gradient gets weight 0
    factor = np.linalg.cholesky(gram / np.outer(scale, scale) + ridge * np.eye(len(gram)))
    weights: np.ndarray = nnls(factor.T, np.linalg.solve(factor, moment / scale))[0] / scale
    return weights
