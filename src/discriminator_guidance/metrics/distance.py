"""The Frechet distance with its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.metrics.features import extract_features
from discriminator_guidance.metrics.frechet import frechet_influence, gaussian_of_features
from discriminator_guidance.metrics.significance import Measured

Rows = NDArray[Any]


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def frechet_distance(
    generated: Rows,
    reference: Rows,
    *,
    baseline: Rows | None = None,
    network: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Interval:
    """The Frechet distance of generated to real images, or its difference from a baseline's, with a 95 % interval.

    Features (N, d); or uint8 images (N, H, W, C) and a `network` of features, given float32 (N, C, H, W) in [-1, 1].
    baseline: other generated images, row by row of the same noise (one seed of `sample`), for the difference is paired;
    below 0, `generated` is better. The interval covers the drawing of generated images, see `evaluation.significance`.

    >>> noise, real = np.random.default_rng(0).normal(size=(2, 1000, 4))
    >>> value, low, high = frechet_distance(noise + 0.5, real)
    >>> low < 1.0 < high  # the squared distance of the means
    True
    >>> frechet_distance(noise + 0.4, real, baseline=noise + 0.5).high < 0
    True
    """
    sets = [rows for rows in (reference, generated, baseline) if rows is not None]
    if network is not None:
        sets = [extract_features(network, images, 256, device) for images in sets]
    real = gaussian_of_features(sets[0])
    distance, *other = (Measured.of([frechet_influence(features, real)]) for features in sets[1:])
    measured = distance.minus(*other) if other else distance
    return Interval(measured.mean, *measured.sampling_interval())
