"""The Frechet distance with its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.frechet import frechet_influence, gaussian_of_features
from discriminator_guidance.evaluation.significance import Measured

BATCH = 256  # images


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def frechet_distance(
    generated: NDArray[np.generic],
    reference: NDArray[np.generic],
    *,
    baseline: NDArray[np.generic] | None = None,
    network: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Interval:
    """The Frechet distance of generated to real images, or its difference to that of a baseline, with a 95 % interval.

    Features (N, d) of one network; or, with `network`, uint8 images (N, H, W, C), from which it makes features (N, d),
    given float32 batches (N, C, H, W) in [-1, 1]. baseline: other generated images; row i of both must come from the
    same noise (one seed of `sample`), for the difference is paired. The interval covers the noise of drawing the
    generated images, see `evaluation.significance`; below 0, a difference says that `generated` is better.

    Heusel et al. 2017, Eq. 6; the interval: Efron 1982, Chapter 6.

    >>> noise, real = np.random.default_rng(0).normal(size=(2, 1000, 4))
    >>> value, low, high = frechet_distance(noise + 0.5, real)
    >>> low < 1.0 < high  # the squared distance of the means
    True
    >>> frechet_distance(noise + 0.4, real, baseline=noise + 0.5).high < 0
    True
    """

    def features(images: NDArray[np.generic]) -> NDArray[np.floating]:
        return images if network is None else extract_features(network, images, BATCH, device)  # type: ignore[arg-type, return-value]

    real = gaussian_of_features(features(reference))
    distance = Measured.of([frechet_influence(features(generated), real)])
    if baseline is not None:
        distance = distance.minus(Measured.of([frechet_influence(features(baseline), real)]))
    return Interval(distance.mean, *distance.sampling_interval())
