"""The small classifier whose penultimate features define the profile's own Frechet distance."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class FidNetwork(nn.Module):
    """Four convolutions, halving after the second and the fourth, a layer of features, and the logits.

    Images (N, C, H, W) in [-1, 1] -> (N, classes).
    """

    def __init__(self, image_size: int, in_channels: int, channels: Sequence[int], features: int, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.convolutions = nn.Sequential(
            *_convolution(in_channels, first),
            *_convolution(first, second),
            nn.MaxPool2d(2),
            *_convolution(second, third),
            *_convolution(third, fourth),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        # Normalised, because training lets raw features grow without bound, and a Frechet distance
        # ruled by a few is blind to the rest; SiLU, because a ReLU that never fires leaves one constant.
        self.penultimate = nn.Sequential(
            nn.Linear(fourth * (image_size // 4) ** 2, features), nn.LayerNorm(features), nn.SiLU()
        )
        self.classifier = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """The penultimate features, (N, features)."""
        penultimate: Tensor = self.penultimate(self.convolutions(x))
        return penultimate

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


def _convolution(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.SiLU()
