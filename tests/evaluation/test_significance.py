"""Intervals against repeated simulation and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.frechet import frechet_influence, gaussian_of_features
from discriminator_guidance.evaluation.significance import interval, paired_difference, ranges_interval, standard_error
from tests.evaluation.sets import of_noise


def noise(seed: int, count: int, width: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


def test_intervals_cover_the_expectation_over_repeated_sampling() -> None:
    """300 repetitions of sampling two variants that share their noise, N = 500 in d = 8."""
    reference, rows = gaussian_of_features(of_noise(noise(0, 1000, 8), 1.0, 0.0)), []
    for seed in range(1, 301):
        shared = noise(seed, 500, 8)
        first, influence = frechet_influence(of_noise(shared, 1.3, 0.2), reference)
        other = of_noise(shared + 0.1 * noise(10_000 + seed, 500, 8), 1.2, 0.15)
        second, other_influence = frechet_influence(other, reference)
        errors = [standard_error(psi) for psi in (influence, other_influence, influence - other_influence)]
        rows.append((first, errors[0], first - second, errors[2], np.hypot(errors[0], errors[1])))
    distance, error, difference, paired_error, unpaired_error = np.array(rows).T
    for estimates, errors in ((distance, error), (difference, paired_error)):
        assert errors.mean() == pytest.approx(estimates.std(ddof=1), rel=0.15)
        covered = np.abs(estimates - estimates.mean()) <= 1.96 * errors
        # Four standard deviations of a binomial share around 0.95.
        assert covered.mean() == pytest.approx(0.95, abs=0.05)
    assert paired_error.mean() < 0.4 * unpaired_error.mean()


def test_the_interval_is_196_standard_errors_of_a_mean_to_both_sides() -> None:
    influence = noise(1, 400)[:, 0]
    influence -= influence.mean()
    half_width = 1.96 * influence.std(ddof=1) / 20
    assert interval(2.0, influence) == pytest.approx((2.0 - half_width, 2.0 + half_width))
    # Ranges that are averaged are as good as one of that many samples.
    assert standard_error(influence.reshape(4, 100)) == pytest.approx(standard_error(influence), rel=0.01)


def test_difference_of_ranges_is_that_of_their_means() -> None:
    first, second = noise(1, 90).reshape(3, 30), noise(2, 90).reshape(3, 30)
    delta, bounds = paired_difference([1.0, 2.0, 6.0], first, [0.5, 1.0, 1.5], second)
    assert delta == pytest.approx(2.0)
    assert bounds == interval(delta, first - second)
    reverse, other = paired_difference([0.5, 1.0, 1.5], second, [1.0, 2.0, 6.0], first)
    assert (reverse, other) == (-delta, pytest.approx((-bounds[1], -bounds[0])))
    assert paired_difference([2.5], first, [2.5], first.copy()) == (0.0, (0.0, 0.0))


def test_interval_of_ranges_follows_student() -> None:
    # t with two degrees of freedom: 4.303; mean 2, deviation 1. With one degree: 12.706; mean 3, deviation 8^(1/2).
    assert ranges_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert ranges_interval([1.0, 5.0]) == pytest.approx((3 - 12.7062 * 2, 3 + 12.7062 * 2), abs=1e-3)
    assert ranges_interval([1.0]) is None


def test_unusable_influence_is_refused() -> None:
    with pytest.raises(InputError, match=r"shapes \(2, 10\) and \(20,\)"):
        paired_difference([0.0], np.zeros((2, 10)), [0.0], np.zeros(20))
    with pytest.raises(InputError, match="at least 2 influence values; got 1"):
        interval(0.0, np.zeros(1))
