"""Intervals for Frechet distances, and for differences of them, by the infinitesimal jackknife.

They cover one thing: the noise of drawing n generated pictures, with networks, reference and training seeds
fixed. The number covered is the distance that n pictures have on average, which is above that of infinitely
many. Where generated and real Gaussians agree, the distance has no first-order term, and the interval is too
narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError

if TYPE_CHECKING:
    from discriminator_guidance.evaluation.distances import Matrix

# Two-sided 95 % quantile of the standard normal distribution.
NORMAL_95 = 1.96
BLOCK = 4096  # features whose influence is computed at once


def frechet_influence(generated: NDArray[np.floating], real: NDArray[np.floating]) -> NDArray[np.float64]:
    """How much each generated picture pulls on the Frechet distance F between two sets of features.

    Args:
        generated: (n, d) features of generated pictures, n at least 2.
        real: (m, d) features of real pictures, m at least 2.

    Returns:
        (n,) float64 influence values in units of the distance; their mean is 0.

    Raises:
        InputError: see `comparable_features`.

    Source: see `influence_on`.
    """
    from discriminator_guidance.evaluation.distances import covariance_root
    from discriminator_guidance.evaluation.features import comparable_features

    generated, real = comparable_features(generated, real)
    return influence_on(generated, real.mean(axis=0), covariance_root(real))


def influence_on(generated: NDArray[np.floating], mean: Matrix, root: Matrix) -> NDArray[np.float64]:
    """How much each generated picture pulls on the Frechet distance F to a Gaussian.

    With z_i = x_i - mu and unbiased covariances S (generated) and S_r (real), the derivative is
    dF = 2 (mu - mu_r).dmu + tr((I - T) dS), where T = S_r^(1/2) (S_r^(1/2) S S_r^(1/2))^(-1/2) S_r^(1/2) is
    the optimal transport map. Giving picture i more weight moves mu by z_i and S by n/(n-1) z_i z_i^T - S, so
    psi_i = 2 (mu - mu_r).z_i + n/(n-1) z_i^T (I - T) z_i - tr((I - T) S).

    Neither S nor T is formed: with A^T A = S, R^T R = S_r and the singular value decomposition A R^T = U diag(s) V^T,
    one has T = P P^T for P = R^T V diag(s)^(-1/2). Directions with s = 0 up to rounding are left out, which holds as it
    stands at deficient rank, where T takes the pseudo-inverse.

    Args:
        generated: (n, d) features of generated pictures, finite, n at least 2.
        mean: (d,) mu_r.
        root: (k, d) R.

    Returns:
        (n,) float64 influence values in units of the distance; their mean is 0. Beside the features this needs memory
        for a few d x d matrices, whatever n.

    Source: Efron 1982, Chapter 6 (infinitesimal jackknife); the map T: Dowson & Landau 1982.
    """
    from discriminator_guidance.evaluation.distances import covariance_root

    n, width = generated.shape
    centre = generated.mean(axis=0, dtype=np.float64)
    _, singular_values, right = np.linalg.svd(covariance_root(generated) @ root.T, full_matrices=False)
    kept = singular_values > max(width, n) * np.finfo(np.float64).eps * singular_values[0]
    transport_root = (root.T @ right[kept].T) / np.sqrt(singular_values[kept])
    influence: NDArray[np.float64] = np.empty(n)
    for start in range(0, n, BLOCK):
        centred = generated[start : start + BLOCK] - centre
        spread = np.sum(centred**2, axis=1) - np.sum((centred @ transport_root) ** 2, axis=1)
        influence[start : start + BLOCK] = 2 * centred @ (centre - mean) + n / (n - 1) * spread
    influence -= influence.mean()
    return influence


def standard_error(influence: NDArray[np.float64]) -> float:
    """The standard deviation of an estimate over repeated sampling, from its influence values.

    Args:
        influence: (n,) values of mean 0, n at least 2; or (ranges, n), a row for each of several independent
            ranges of samples whose estimates are averaged.

    Returns:
        sqrt(sum psi^2 / (n (n - 1))) / ranges, in units of the estimate.

    Raises:
        InputError: fewer than two values.

    Source: Efron 1982, Chapter 6.

    Deviation: n (n - 1) in place of n^2, which is what makes it the usual standard error for a plain mean.
    """
    ranges, n = np.atleast_2d(influence).shape
    if n < 2:
        raise InputError("at least 2 influence values", str(n), "ask for more images")
    return float(np.sqrt(np.sum(influence**2) / (n * (n - 1))) / ranges)


def interval(point: float, influence: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of an estimate, point -+ 1.96 standard errors.

    Args:
        point: the estimate, or the mean of one for each range.
        influence: (n,) or (ranges, n) its influence values.

    Returns:
        Lower and upper end; the lower one of a distance is not cut at 0.

    Raises:
        InputError: fewer than two values.
    """
    half_width = NORMAL_95 * standard_error(influence)
    return point - half_width, point + half_width


def paired_interval(
    delta: float, influence_a: NDArray[np.float64], influence_b: NDArray[np.float64]
) -> tuple[float, float]:
    """The 95 % interval of a difference a - b between two sets of pictures that share noise index by index.

    What shared noise does to both sets cancels in psi_a[i] - psi_b[i], which makes the interval narrow.

    Args:
        delta: estimate of a minus estimate of b.
        influence_a: (n,) or (ranges, n) influence values of a.
        influence_b: influence values of b, of the same shape and in the same order of sample indices.

    Returns:
        Lower and upper end.

    Raises:
        InputError: the two sets differ in size, or have fewer than two pictures.
    """
    if influence_a.shape != influence_b.shape:
        raise InputError(
            "two sets of pictures with the same sample indices",
            f"{_pictures(influence_a)} and {_pictures(influence_b)} pictures",
            "sample both variants with the same number of images",
        )
    return interval(delta, influence_a - influence_b)


def paired_difference(
    distances_a: Sequence[float],
    influence_a: NDArray[np.float64],
    distances_b: Sequence[float],
    influence_b: NDArray[np.float64],
) -> tuple[float, tuple[float, float]]:
    """How much two variants that share noise differ in Frechet distance, averaged over ranges of samples.

    Args:
        distances_a: (ranges,) distances of a.
        influence_a: (n,) with one range, or (ranges, n) its influence values.
        distances_b: (ranges,) distances of b.
        influence_b: those of b, in the same order of sample indices.

    Returns:
        Mean of a minus mean of b, and its 95 % interval.

    Raises:
        InputError: see `paired_interval`.
    """
    delta = float(np.mean(distances_a) - np.mean(distances_b))
    return delta, paired_interval(delta, influence_a, influence_b)


def ranges_interval(distances: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean over independent ranges of samples, from nothing but their scatter.

    Args:
        distances: (ranges,) one distance for each range.

    Returns:
        Mean -+ t s / sqrt(ranges), t the quantile of Student's distribution with ranges - 1 degrees of freedom (4.3
        for three ranges); None for a single range, which has no scatter.

    Source: Student 1908.
    """
    ranges = len(distances)
    if ranges < 2:
        return None
    from scipy.special import stdtrit

    half_width = stdtrit(ranges - 1, 0.975) * np.std(distances, ddof=1) / np.sqrt(ranges)
    mean = np.mean(distances)
    return float(mean - half_width), float(mean + half_width)


def _pictures(influence: NDArray[np.float64]) -> str:
    return " x ".join(map(str, influence.shape))
