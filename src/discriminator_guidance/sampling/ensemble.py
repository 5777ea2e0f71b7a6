"""What guidance asks of callables: denoisers, discriminators, and gradients shrunk where members disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.noise import column

Denoiser = Callable[..., Tensor]  # (x, sigma) -> D(x; sigma), sigma (N,)
RawLogits = Callable[[Tensor, Tensor], Tensor]  # (x_vp, tau) -> (M, N) raw logits, differentiable in x_vp
WeightsOfTime = Callable[[Tensor], Tensor]  # tau -> (M, N) weights, or (M, 1) for one tau


def innermost(function: Any) -> Any:
    """The callable below functools.partial, which has the attributes."""
    while isinstance(function, partial):
        function = function.args[0] if function.func is _with_classes else function.func
    return function


def conditioned(function: Callable[..., Tensor], *classes: Tensor) -> Callable[..., Tensor]:
    """A denoiser or discriminator that is given the classes of a batch as its last arguments."""
    return partial(_with_classes, function, classes)


def _with_classes(function: Callable[..., Tensor], classes: Sequence[Tensor], x: Tensor, level: Tensor) -> Tensor:
    return function(x, level, *classes)


def gradient(values: Tensor, x_vp: Tensor, again: bool = False) -> Tensor:
    """The gradient of each value (N,) in its image of x_vp (N, ...); again: another is to follow."""
    slope = None
    if values.requires_grad:
        with torch.autocast(x_vp.device.type, enabled=False):  # the forward pass has chosen all formats
            (slope,) = torch.autograd.grad(values.sum(), x_vp, retain_graph=again, allow_unused=True)
    if slope is None:
        remedy = "compute them from x_vp without no_grad, detach or numpy"
        raise ConfigError("logits that are differentiable in x_vp", "logits without a gradient", remedy)
    return slope


def member_gradients(logits: Tensor, x_vp: Tensor) -> Tensor:
    """The gradient of each member's logit (M, N) in the images x_vp (N, C, H, W): (M, N, C, H, W)."""
    return torch.stack([gradient(row, x_vp, again=True) for row in logits])


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
    shrunk = column((1 - scatter / power).clamp(min=0), slope) * slope
    # The tangent at x_vp: the mean logit there, with the shrunk gradient.
    return logits.detach().mean(dim=0, dtype=x_vp.dtype) + (shrunk * (x_vp - x_vp.detach())).flatten(1).sum(dim=1)
