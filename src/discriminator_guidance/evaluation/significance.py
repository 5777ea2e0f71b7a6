"""Intervals for Frechet distances, and for their differences, by the infinitesimal jackknife (Efron 1982, Chapter 6).

They cover the noise of drawing n generated images, with networks, reference and training seeds fixed; the number
covered is the distance that n images have on average, which is above that of infinitely many. Where generated and real
Gaussians agree, the distance has no first-order term, and the interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import Doubles

NORMAL_95 = 1.96  # two-sided 95 % quantile of the standard normal distribution


def standard_error(influence: Doubles) -> float:
    """The standard error of an estimate, from its (n,) influence values or (ranges, n) of a mean over ranges.

    *Deviation:* n (n - 1) in place of Efron's n^2, as in the usual standard error of a mean.
    """
    ranges, n = np.atleast_2d(influence).shape
    if n < 2:
        raise InputError("at least 2 influence values", str(n), "ask for more images")
    return float(np.sqrt(np.sum(influence**2) / (n * (n - 1))) / ranges)


def interval(point: float, influence: Doubles) -> tuple[float, float]:
    """The 95 % interval, point -+ 1.96 standard errors; the lower end of a distance is not cut at 0."""
    half_width = NORMAL_95 * standard_error(influence)
    return point - half_width, point + half_width


def paired_difference(
    distances_a: Sequence[float], influence_a: Doubles, distances_b: Sequence[float], influence_b: Doubles
) -> tuple[float, tuple[float, float]]:
    """Mean distance of a minus that of b over (ranges,), and its 95 % interval, paired by sample index.

    The influence values are (n,) or (ranges, n). What shared noise does to both sets cancels in
    psi_a[i] - psi_b[i], which makes the interval narrow.
    """
    if influence_a.shape != influence_b.shape:
        found, remedy = f"shapes {influence_a.shape} and {influence_b.shape}", "sample both variants again"
        raise InputError("influence values of as many images of both variants", found, remedy)
    delta = float(np.mean(distances_a) - np.mean(distances_b))
    return delta, interval(delta, influence_a - influence_b)


def ranges_interval(distances: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean over independent ranges from their scatter (Student 1908); None for one range."""
    if len(distances) < 2:
        return None
    from scipy import stats

    low, high = stats.t.interval(0.95, len(distances) - 1, np.mean(distances), stats.sem(distances))
    return float(low), float(high)
