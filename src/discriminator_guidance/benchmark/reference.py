"""The plain way of computing, as the official code is written: what this project's speed is compared with.

float32 in NCHW, parameters that ask for gradients, resampling by convolutions, attention of the extractor and of the
heads computed again in the backward pass (with the gradients of its parameters, which guidance has no use for), one
member after the other. The networks take this project's weights and are checked against the same vectors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discriminator_guidance.diffusion.vp_time import marginal_mean, tau_from_sigma
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.adm_blocks import AttentionBlock, ResBlock
from discriminator_guidance.networks.blocks import Conv2d, UNetBlock
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.resampling import Resample

Network = TypeVar("Network", bound=nn.Module)
CLIP = 1e-5  # of a probability


class PlainConv2d(Conv2d):
    """The convolution of the score networks, resampling by convolution with the low-pass filter."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, at the new size.

        Args:
            x: (N, in_channels, H, W).

        Returns:
            (N, out_channels, H', W').
        """
        if (self.up or self.down) and not self.fused:
            x = _filtered(x, self.resample_filter, self.up, self.margin)
        x = F.conv2d(x, self.weight, padding=cast(Any, self.padding))
        if self.fused:
            x = _filtered(x, self.resample_filter, self.up, 0)
        return x if self.bias is None else x + self.bias[:, None, None]


class PlainResample(Resample):
    """Doubling or halving by convolution with the low-pass filter."""

    def forward(self, x: Tensor) -> Tensor:
        """The picture at twice or half the size.

        Args:
            x: (N, C, H, W).

        Returns:
            (N, C, 2H, 2W) or (N, C, H/2, W/2).
        """
        return _filtered(x, self.resample_filter, self.up, self.margin)


class PlainUNetBlock(UNetBlock):
    """The block of the score networks, with attention by einsum and softmax in at least float32."""

    def _attended(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm2(x)).reshape(n, c, 3, h * w).unbind(2)
        weight = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(c)).softmax(dim=2)
        attended: Tensor = self.proj(torch.einsum("nqk,nck->ncq", weight, v).reshape(x.shape))
        return attended


class PlainAttentionBlock(AttentionBlock):
    """The attention of the encoder, kept by its input alone until the backward pass computes it again."""

    def forward(self, x: Tensor) -> Tensor:
        """The feature map plus what its positions attend to.

        Args:
            x: (N, channels, H, W).

        Returns:
            (N, channels, H, W).
        """
        recomputed: Tensor = Recomputed.apply(partial(AttentionBlock.forward, self), x, *self.parameters())  # type: ignore[no-untyped-call]
        return recomputed


class PlainResBlock(ResBlock):
    """The residual block of the encoder, halving by torch's pooling."""

    halve = staticmethod(partial(F.avg_pool2d, kernel_size=2))


class Recomputed(torch.autograd.Function):
    """A function of a tensor and parameters whose intermediate results are not kept.

    Source: Chen et al. 2016, Section 4 (recomputation).
    """

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
        """The function's value.

        Args:
            ctx: of autograd.
            run: the function of x, which closes over the parameters.
            x: its input.
            *parameters: that gradients go to.

        Returns:
            `run(x)`.
        """
        ctx.run, ctx.parameters = run, parameters
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradients by x and by the parameters.

        Args:
            ctx: of autograd.
            *gradients: by the value.

        Returns:
            None for the function, then the gradients.
        """
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            inside = x.detach().requires_grad_(True)
            value = ctx.run(inside)
        return None, *torch.autograd.grad(value, (inside, *ctx.parameters), gradients)


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    Conv2d: PlainConv2d,
    Resample: PlainResample,
    UNetBlock: PlainUNetBlock,
    AttentionBlock: PlainAttentionBlock,
    ResBlock: PlainResBlock,
}


def as_published(network: Network) -> Network:
    """A network that computes the plain way.

    Args:
        network: any of this project's.

    Returns:
        A copy in evaluation mode; its parameters ask for gradients.
    """
    plain = copy.deepcopy(network).requires_grad_(True).eval()
    for module in plain.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return plain


def guidance_term(
    extractor: EncoderUNet,
    heads: Sequence[EncoderUNet],
    x: Tensor,
    sigma: Tensor,
    classes: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The guidance term of the EDM slope times sigma, from the mean of the members' probabilities.

    Args:
        extractor: gives the feature map.
        heads: of the members, asked one after the other.
        x: (N, C, H, W) float64 noisy pictures.
        sigma: (N,) float64 noise levels.
        classes: (N,) int64, for conditional heads.
        dtype: of the networks.

    Returns:
        (N, C, H, W) and the log ratio (N,), both float64.

    Source: Kim et al. 2023, Eq. 6-8; the study's Eq. 3.
    """
    tau = tau_from_sigma(sigma)
    mean = marginal_mean(tau).view(-1, 1, 1, 1)
    with torch.enable_grad():
        x_vp = (mean * x).to(dtype).detach().requires_grad_(True)
        features, time = extractor.features(x_vp, tau.to(dtype)), tau.to(dtype)
        probability = torch.stack([head(features, time, classes).squeeze(1).sigmoid() for head in heads]).mean(dim=0)
        probability = probability.clamp(CLIP, 1 - CLIP)
        log_ratio = torch.log(probability / (1 - probability))
        (gradient,) = torch.autograd.grad(log_ratio.sum(), x_vp)
    return -(sigma.view(-1, 1, 1, 1) ** 2) * mean * gradient.double(), log_ratio.detach().double()


def sample(
    network: EDMPrecond,
    guidance: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    latents: Tensor,
    sigmas: Sequence[float],
    window: tuple[float, float],
    w1: float,
    labels: Tensor | None = None,
) -> Tensor:
    """Heun's method without churn, guided in the Euler step.

    Args:
        network: the denoiser.
        guidance: (x, sigma) -> (guidance term, log ratio); None draws without.
        latents: (N, C, H, W) float32 unit-normal noise.
        sigmas: noise levels, falling, the last one 0.
        window: VP times between which guidance acts.
        w1: its weight.
        labels: (N, classes) one-hot for a conditional network.

    Returns:
        (N, C, H, W) float64 samples.

    Source: Karras et al. 2022, Algorithm 1; Kim et al. 2023, Algorithm 1.
    """
    x = latents.double() * sigmas[0]

    def denoised(state: Tensor, sigma: float) -> Tensor:
        with torch.no_grad():
            estimate: Tensor = network(state.float(), state.new_tensor(sigma), labels)
        return estimate.double()

    for sigma, following in pairwise(sigmas):
        slope = (x - denoised(x, sigma)) / sigma
        level = torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
        if guidance is not None and window[0] <= tau_from_sigma(level[0]) <= window[1]:
            slope = slope + w1 * guidance(x, level)[0] / sigma
        euler = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (euler - denoised(euler, following)) / following) / 2
            euler = x + (following - sigma) * slope
        x = euler
    return x


def _filtered(x: Tensor, low_pass: Tensor, up: bool, padding: int) -> Tensor:
    channels = x.shape[1]
    kernel = low_pass.to(x.dtype).tile(channels, 1, 1, 1)
    if up:
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)
    return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)
