"""What generated features are compared with: real features, or the mean and covariance that others publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.distances import (
    Matrix,
    covariance_root,
    frechet_distance,
    frechet_distance_from_features,
    gaussian_statistics,
)
from discriminator_guidance.evaluation.features import comparable_features

# Relative to the largest entry or eigenvalue; published sums over 50,000 features are rounded at about 1e-13.
ROUNDING = 1e-8


@dataclass(frozen=True)
class Reference:
    """A Gaussian to compare with.

    Args:
        mean: (d,) float64.
        root: (k, d) float64, R with R^T R the covariance.
        distance: of (n, d) generated features, their Frechet distance to it.
    """

    mean: Matrix
    root: Matrix
    distance: Callable[[NDArray[np.floating]], float]


def reference_of_features(real: NDArray[np.floating]) -> Reference:
    """The Gaussian of real features; its distance is taken from the features, exact for any number of them.

    Args:
        real: (m, d) features of real pictures, m at least 2.

    Returns:
        The reference.

    Raises:
        InputError: see `comparable_features`.
    """
    doubles, _ = comparable_features(real, real)
    mean, root = doubles.mean(axis=0), covariance_root(doubles)
    return Reference(mean, root, lambda generated: frechet_distance_from_features(generated, real))


def reference_of_statistics(mu: NDArray[np.floating], sigma: NDArray[np.floating], width: int, where: str) -> Reference:
    """The Gaussian of published statistics.

    Args:
        mu: (d,) mean.
        sigma: (d, d) covariance.
        width: d of the features that will be compared with it.
        where: the statistics come from, for the error.

    Returns:
        The reference.

    Raises:
        InputError: another shape, a value that is not finite, or no covariance: not symmetric, or an eigenvalue
            that is negative by more than rounding.

    Source: Heusel et al. 2017, Eq. 6, on the layout of EDM's `cifar10-32x32.npz`.
    """
    remedy = "get the file again, or set evaluation.reference_statistics to null"
    expected = f"mu of shape ({width},) and sigma of shape ({width}, {width}) in {where}"
    if mu.shape != (width,) or sigma.shape != (width, width):
        raise InputError(expected, f"shapes {mu.shape} and {sigma.shape}", remedy)
    if any(values.dtype.kind not in "fiu" or not np.isfinite(values).all() for values in (mu, sigma)):
        raise InputError(f"finite numbers in {where}", "a value that is not finite", remedy)
    mean, covariance = mu.astype(np.float64), sigma.astype(np.float64)
    asymmetry = float(np.abs(covariance - covariance.T).max())
    if asymmetry > ROUNDING * np.abs(covariance).max():
        raise InputError(f"a symmetric sigma in {where}", f"entries that differ by {asymmetry:.3g}", remedy)
    covariance = (covariance + covariance.T) / 2
    eigenvalues, vectors = np.linalg.eigh(covariance)
    if eigenvalues[0] < -ROUNDING * max(eigenvalues[-1], 0.0):
        raise InputError(f"a positive semi-definite sigma in {where}", f"eigenvalue {eigenvalues[0]:.3g}", remedy)
    root = np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * vectors.T

    def distance(generated: NDArray[np.floating]) -> float:
        return frechet_distance(*gaussian_statistics(generated), mean, covariance)

    return Reference(mean, root, distance)
