"""A small convolutional network of noised images and their VP time: a whole discriminator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import silu

from discriminator_guidance.networks.layers import broadcast_batch, sinusoidal_embedding

SMALLEST = 4  # size at which images are not halved again
WIDEST = 4  # times `width`
TIME_SCALE = 999.0  # VP times in [0, 1] become the step numbers the embedding was made for


class NoisyImageCNN(nn.Module):
    """Strided convolutions of x_vp, each scaled by an embedding of VP time and class, and one logit.

    (N, C, H, W), VP times (N,) or 0-dim[, classes (N,)] -> (N,). Every convolution but the first halves the image,
    until its shorter side has SMALLEST pixels, and doubles the channels, up to WIDEST times `width`.
    """

    def __init__(self, image_shape: Sequence[int], width: int = 32, classes: int = 0) -> None:
        super().__init__()
        channels, *size = image_shape
        self.arguments: dict[str, Any] = {"image_shape": list(image_shape), "width": width, "classes": classes}
        self.embedding = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU())
        self.classes = nn.Embedding(classes, 2 * width) if classes else None
        widths = [width]
        while min(size) > SMALLEST:
            size = [-(-length // 2) for length in size]
            widths.append(min(2 * widths[-1], WIDEST * width))
        layers = [nn.Conv2d(channels, width, 3, padding=1)]
        layers += [nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in pairwise(widths)]
        self.convolutions = nn.ModuleList(layers)
        self.scales = nn.ModuleList([nn.Linear(2 * width, channels) for channels in widths])
        self.logit = nn.Linear(widths[-1] * math.prod(size), 1)

    @property
    def conditional(self) -> bool:
        """Whether it is given classes."""
        return self.classes is not None

    def forward(self, x_vp: Tensor, tau: Tensor, classes: Tensor | None = None) -> Tensor:
        """The logits (N,) of d(x_vp, tau)."""
        if (classes is None) != (self.classes is None):
            raise ValueError("classes are for conditional networks, and these need them")
        h = x_vp.to(self.logit.weight.dtype)
        steps = TIME_SCALE * broadcast_batch(tau, len(h), h.dtype)
        embedding = self.embedding(sinusoidal_embedding(steps, self.arguments["width"], endpoint=True))
        if self.classes is not None and classes is not None:
            embedding = embedding + self.classes(classes if classes.dim() == 1 else classes.argmax(dim=1))
        for convolution, scale in zip(self.convolutions, self.scales, strict=True):
            h = silu(convolution(h) * (1 + scale(embedding)[:, :, None, None]))
        logits: Tensor = self.logit(h.flatten(1)).squeeze(1)
        return logits
