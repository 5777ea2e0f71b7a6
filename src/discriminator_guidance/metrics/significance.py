"""Intervals for Frechet distances, and for their differences, by the infinitesimal jackknife (Efron 1982, Chapter 6).

They cover the noise of drawing n generated images, with networks, reference and training seeds fixed; the number
covered is the distance that n images have on average, which is above that of infinitely many. Where generated and real
Gaussians agree, the distance has no first-order term, and the interval is too narrow. Training seeds are covered too by
`Estimate.interval` and `Estimate.p_value`, from networks trained K times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.metrics.features import Doubles

NORMAL_95 = 1.96  # two-sided 95 % quantile of the standard normal distribution


def standard_error(influence: Doubles) -> float:
    """The standard error of an estimate, from its (n,) influence values.

    *Deviation:* n (n - 1) in place of Efron's n^2, as in the usual standard error of a mean.
    """
    n = len(influence)
    return float(np.sqrt(np.sum(influence**2) / (n * (n - 1))))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number m, in the given order: max over j <= i of (m - j + 1) p_(j), at most 1.

    Rejecting those below 0.05 makes any false rejection at most 5 % likely, however they are dependent (Holm 1979).
    """
    order, adjusted = np.argsort(p_values), np.array(p_values, dtype=np.float64)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.arange(len(order), 0, -1) * adjusted[order]))
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Estimate:
    """A distance, a share, or a difference of two, in each of K training replicates, with every image's influence."""

    values: tuple[float, ...]  # (K,)
    influence: Doubles  # (K, n)
    limits: tuple[float, float] = (-np.inf, np.inf)  # what the estimated number can be; intervals end there

    @classmethod
    def of(cls, replicates: Iterable[tuple[float, Doubles]]) -> Estimate:
        """From the value and the influence of each replicate."""
        values, influence = zip(*replicates, strict=True)
        return cls(values, np.stack(influence))

    @property
    def mean(self) -> float:
        """Over the replicates."""
        return float(np.mean(self.values))

    def minus(self, other: Estimate) -> Estimate:
        """The difference, paired by replicate and image: what shared noise does to both cancels."""
        if self.influence.shape != other.influence.shape:
            problem = f"the estimates have {self.influence.shape} and {other.influence.shape} replicates and images"
            raise InputError(problem, "draw both with the same settings")
        values = tuple(a - b for a, b in zip(self.values, other.values, strict=True))
        return Estimate(values, self.influence - other.influence, self._limits_minus(other))

    def minus_independent(self, other: Estimate) -> Estimate:
        """The difference from images that share no noise: the influence of all, so that squared errors add up."""
        (n, m), values = (self.influence.shape[1], other.influence.shape[1]), np.subtract(self.values, other.values)
        ours, theirs = (np.sqrt((n + m) * (n + m - 1) / (count * (count - 1))) for count in (n, m))
        influence = np.hstack([ours * self.influence, -theirs * other.influence])
        return Estimate(tuple(values.tolist()), influence, self._limits_minus(other))

    def ratio(self, other: Estimate) -> tuple[float, float, float]:
        """The geometric mean of self / other and its 95 % interval, by the paired difference of their logarithms.

        Distances of n images with their bias, which are above 0; NaN where one is not.
        """
        if min(*self.values, *other.values) <= 0:
            return np.nan, np.nan, np.nan
        logs = [Estimate(tuple(np.log(e.values)), e.influence / np.array(e.values)[:, None]) for e in (self, other)]
        difference = logs[0].minus(logs[1])
        ratio, low, high = np.exp([difference.mean, *difference.interval()]).tolist()
        return ratio, low, high

    def _limits_minus(self, other: Estimate) -> tuple[float, float]:
        return self.limits[0] - other.limits[1], self.limits[1] - other.limits[0]

    def interval(self) -> tuple[float, float]:
        """The 95 % interval F -+ t (V_b + V_s)^(1/2) over sampling noise and training seeds.

        It covers the distance of n images, expected over their noise and over the training seed; see `_error`. One
        network has no spread of training: its interval is that of sampling. A distance's lower end is not cut at 0.
        """
        error, freedom = self._error()
        if len(self.values) == 1:
            half = NORMAL_95 * error
        else:
            try:
                from scipy.special import stdtrit  # scipy.stats takes a second to import
            except ImportError as missing:
                raise ConfigError("SciPy, for intervals over seeds, is missing", "pip install scipy") from missing
            half = float(stdtrit(freedom, 0.975)) * error
        return max(self.limits[0], self.mean - half), min(self.limits[1], self.mean + half)

    def p_value(self) -> float:
        """The two-sided p-value of the mean being 0."""
        from scipy.special import stdtr

        error, freedom = self._error()
        if self.mean == 0 or not error:  # sets that are equal, or whose images are
            return float(self.mean == 0)
        return float(2 * stdtr(freedom, -abs(self.mean) / error))

    def _error(self) -> tuple[float, float]:
        """The standard error (V_b + V_s)^(1/2) of the mean, and its degrees of freedom.

        V_b = S^2(F_s) / K holds the spread of training and the sampling noise that replicates do not share, V_s =
        max(0, se(psi_mean)^2 - mean_s se(psi_s - psi_mean)^2 / K) the noise that they share, slightly too large. The
        degrees of freedom are (V_b + V_s)^2 (K - 1) / V_b^2 (Satterthwaite 1946): K - 1 where training outweighs
        sampling, more where not, and infinite for one network, which has no spread of training.
        """
        count, shared = len(self.values), self.influence.mean(axis=0)
        sampling = standard_error(shared) ** 2
        if count == 1:
            return float(np.sqrt(sampling)), np.inf
        unshared = float(np.mean([standard_error(psi - shared) ** 2 for psi in self.influence])) / count
        between, common = float(np.var(self.values, ddof=1)) / count, max(0.0, sampling - unshared)
        freedom = (between + common) ** 2 * (count - 1) / between**2 if between else np.inf
        return float(np.sqrt(between + common)), freedom
