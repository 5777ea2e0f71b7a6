"""Group normalisation, with a kernel of its own where torch's is slow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# torch's forward kernel for bfloat16 with channels last is fast from this many positions, or channels in a group, on.
POSITIONS, CHANNELS = 1024, 16


class GroupNorm(nn.GroupNorm):
    """Group normalisation; torch's but for feature maps in bfloat16 with channels last on a CPU.

    There torch's kernels take two to five times as long as in NCHW, its backward pass up to eight times.

    Source: Wu & He 2018, Eq. 7.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The normalised feature map.

        Args:
            x: (N, channels, ...).

        Returns:
            The same shape, format and layout.
        """
        if _is_slow(x):
            normalized: Tensor = _ChannelsLast.apply(x, self.weight, self.bias, self.num_groups, self.eps)  # type: ignore[no-untyped-call]
            return normalized
        return super().forward(x)


def _is_slow(x: Tensor) -> bool:
    last = x.dim() == 4 and x.stride(1) == 1 and not x.is_contiguous()
    return last and x.dtype == torch.bfloat16 and x.device.type == "cpu"


class _ChannelsLast(torch.autograd.Function):
    """With mean m and deviation s of a group and z = (x - m) / s, y = weight z + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, channels, height, width = x.shape
        fast = height * width >= POSITIONS or channels // groups >= CHANNELS
        given = x if fast else x.float()
        y, mean, inverse = torch.native_group_norm(given, weight, bias, n, channels, height * width, groups, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        return y.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        # With g = weight dy and means over the group, dx = (g - mean(g) - z mean(g z)) / s = a dy + b x + c, in which
        # a differs from channel to channel, b and c from group to group.
        x, weight, mean, inverse = ctx.saved_tensors
        n, channels, height, width = x.shape
        groups = mean.shape[1]
        mean, inverse = mean.float()[:, :, None], inverse.float()[:, :, None]
        scale = weight.float().view(1, groups, -1)

        def summed(map: Tensor) -> Tensor:  # over the positions -> (N, groups, channels of a group)
            return map.sum((2, 3), dtype=torch.float32).view(n, groups, -1)

        bias_gradient = summed(dy)
        weight_gradient = (summed(dy * x) - mean * bias_gradient) * inverse
        size = height * width * (channels // groups)
        mean_g = (scale * bias_gradient).sum(2, keepdim=True) / size
        mean_gz = (scale * weight_gradient).sum(2, keepdim=True) / size

        def factor(values: Tensor) -> Tensor:  # -> (N, channels, 1, 1)
            return values.expand(n, groups, channels // groups).reshape(n, channels, 1, 1).to(x.dtype)

        a, b = factor(inverse * scale), factor(-(inverse**2) * mean_gz)
        c = factor(inverse * (inverse * mean * mean_gz - mean_g))
        dx = torch.addcmul(torch.addcmul(c, x, b), dy, a)
        of_weight, of_bias = (part.sum(0).flatten().to(weight.dtype) for part in (weight_gradient, bias_gradient))
        return dx, of_weight, of_bias, None, None
