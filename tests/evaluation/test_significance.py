"""Influence values and intervals against derivatives, repeated simulation and the bootstrap."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation import significance
from discriminator_guidance.evaluation.distances import (
    covariance_root,
    frechet_distance,
    frechet_distance_from_features,
    gaussian_statistics,
)
from discriminator_guidance.evaluation.significance import (
    frechet_influence,
    influence_on,
    interval,
    paired_difference,
    paired_interval,
    ranges_interval,
    standard_error,
)


def features_of(noise: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """Skewed, correlated features that are a smooth function of per-sample noise, as a sampler's are."""
    width = noise.shape[1]
    mixing = np.random.default_rng(7).standard_normal((width, width)) / np.sqrt(width)
    return np.logaddexp(0, scale * noise @ mixing + shift)


def noise(seed: int, count: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


def weighted_distance(generated: np.ndarray, weights: np.ndarray, real: np.ndarray) -> float:
    n = len(generated)
    mean = weights @ generated
    centred = generated - mean
    covariance = n / (n - 1) * (centred * weights[:, None]).T @ centred
    return frechet_distance(mean, covariance, *gaussian_statistics(real))


@pytest.mark.parametrize(("count", "reference", "width"), [(60, 80, 6), (15, 60, 20), (60, 15, 20), (12, 15, 20)])
def test_influence_is_the_derivative_by_the_weight_of_a_sample(count: int, reference: int, width: int) -> None:
    generated = features_of(noise(1, count, width), 1.4, 0.3)
    real = features_of(noise(2, reference, width), 1.0, 0.0)
    influence = frechet_influence(generated, real)
    step = 1e-3 / count
    for row in (0, 5, count - 1):
        direction = np.eye(count)[row] - 1 / count
        above, below = (weighted_distance(generated, 1 / count + sign * step * direction, real) for sign in (1, -1))
        assert influence[row] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-4)


def test_influence_is_the_formula_with_the_transport_map() -> None:
    generated, real = features_of(noise(1, 90, 5), 1.4, 0.3), features_of(noise(2, 70, 5), 1.0, 0.0)
    (mean, covariance), (real_mean, real_covariance) = (
        gaussian_statistics(generated),
        gaussian_statistics(real),
    )

    def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
        eigenvalues, vectors = np.linalg.eigh(matrix)
        return np.asarray(vectors * eigenvalues**exponent @ vectors.T)

    root = power(real_covariance, 0.5)
    transport = root @ power(root @ covariance @ root, -0.5) @ root
    np.testing.assert_allclose(transport @ covariance @ transport, real_covariance, atol=1e-12)
    centred = generated - mean
    bend = np.eye(5) - transport
    expected = (
        2 * centred @ (mean - real_mean)
        + 90 / 89 * np.einsum("ni,ij,nj->n", centred, bend, centred)
        - np.trace(bend @ covariance)
    )
    np.testing.assert_allclose(frechet_influence(generated, real), expected, atol=1e-12)


@pytest.mark.parametrize(("count", "width"), [(200, 8), (10, 30)])
def test_influence_averages_to_nothing(count: int, width: int) -> None:
    influence = frechet_influence(
        features_of(noise(1, count, width), 1.3, 0.0), features_of(noise(2, 50, width), 1.0, 0.0)
    )
    assert influence.shape == (count,)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    assert influence.std() > 0.1


@pytest.mark.parametrize(("count", "width"), [(200, 8), (10, 30)])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, count: int, width: int) -> None:
    generated, real = features_of(noise(1, count, width), 1.3, 0.0), features_of(noise(2, 90, width), 1.0, 0.0)
    whole = frechet_influence(generated, real)
    monkeypatch.setattr(significance, "BLOCK", 7)
    np.testing.assert_allclose(frechet_influence(generated, real), whole, atol=1e-12)


def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    generated = features_of(noise(1, 80_000, 16), 1.3, 0.0).astype(np.float32)
    mean, root = generated[:500].mean(axis=0, dtype=np.float64), covariance_root(generated[:500])
    tracemalloc.start()
    influence = influence_on(generated, mean, root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A copy in double precision would be twice the features.
    assert peak < influence.nbytes + generated.nbytes
    np.testing.assert_allclose(influence, influence_on(generated.astype(np.float64), mean, root), rtol=1e-9, atol=1e-9)


def test_influence_does_not_depend_on_motions_or_order() -> None:
    generated, real = features_of(noise(1, 60, 6), 1.4, 0.3), features_of(noise(2, 80, 6), 1.0, 0.0)
    influence = frechet_influence(generated, real)
    turn = np.linalg.qr(noise(3, 6, 6))[0]
    np.testing.assert_allclose(frechet_influence(generated @ turn + 5, real @ turn + 5), influence, atol=1e-10)
    np.testing.assert_allclose(frechet_influence(generated[::-1], real)[::-1], influence, atol=1e-10)


@dataclass(frozen=True)
class Repeats:
    """300 repetitions of sampling two variants that share their noise, N = 500 in d = 8."""

    distance: np.ndarray
    error: np.ndarray
    difference: np.ndarray
    difference_error: np.ndarray


@pytest.fixture(scope="module")
def repeats() -> Repeats:
    real = features_of(noise(0, 1000, 8), 1.0, 0.0)
    rows = []
    for seed in range(1, 301):
        shared = noise(seed, 500, 8)
        first = features_of(shared, 1.3, 0.2)
        second = features_of(shared + 0.1 * noise(10_000 + seed, 500, 8), 1.2, 0.15)
        influences = frechet_influence(first, real), frechet_influence(second, real)
        distances = frechet_distance_from_features(first, real), frechet_distance_from_features(second, real)
        rows.append(
            (
                distances[0],
                standard_error(influences[0]),
                distances[0] - distances[1],
                standard_error(influences[0] - influences[1]),
            )
        )
    return Repeats(*np.array(rows).T)


def test_standard_error_is_the_spread_over_repeated_sampling(repeats: Repeats) -> None:
    assert repeats.error.mean() == pytest.approx(repeats.distance.std(ddof=1), rel=0.15)


def test_paired_standard_error_is_the_spread_of_differences(repeats: Repeats) -> None:
    assert repeats.difference_error.mean() == pytest.approx(repeats.difference.std(ddof=1), rel=0.15)


def test_intervals_cover_the_expectation_at_this_number_of_samples(repeats: Repeats) -> None:
    for estimates, errors in (
        (repeats.distance, repeats.error),
        (repeats.difference, repeats.difference_error),
    ):
        covered = np.abs(estimates - estimates.mean()) <= 1.96 * errors
        # Four standard deviations of a binomial share around 0.95.
        assert covered.mean() == pytest.approx(0.95, abs=0.05)


def test_the_interval_is_centred_and_195_wide() -> None:
    influence = noise(1, 400, 1)[:, 0]
    influence -= influence.mean()
    low, high = interval(2.0, influence)
    assert (low + high) / 2 == pytest.approx(2.0)
    assert (high - low) / 2 == pytest.approx(1.96 * influence.std(ddof=1) / 20)


def test_pairing_narrows_the_interval_of_correlated_sets() -> None:
    real, shared = features_of(noise(0, 400, 8), 1.0, 0.0), noise(1, 400, 8)
    first = frechet_influence(features_of(shared, 1.3, 0.2), real)
    second = frechet_influence(features_of(shared + 0.1 * noise(2, 400, 8), 1.2, 0.15), real)
    low, high = paired_interval(0.5, first, second)
    assert (low + high) / 2 == pytest.approx(0.5)
    unpaired = 2 * 1.96 * np.hypot(standard_error(first), standard_error(second))
    assert high - low < 0.4 * unpaired


def test_identical_sets_differ_by_nothing_for_certain() -> None:
    influence = frechet_influence(features_of(noise(1, 50, 4), 1.3, 0.2), features_of(noise(0, 60, 4), 1.0, 0.0))
    assert paired_interval(0.0, influence, influence.copy()) == (0.0, 0.0)


def test_averaging_ranges_narrows_the_interval_as_that_many_samples_would() -> None:
    influence = noise(1, 600, 1)[:, 0]
    assert standard_error(influence.reshape(3, 200)) == pytest.approx(standard_error(influence), rel=5e-3)
    assert standard_error(influence[None]) == standard_error(influence)


def test_difference_of_ranges_is_that_of_their_means() -> None:
    first, second = noise(1, 90, 1).reshape(3, 30), noise(2, 90, 1).reshape(3, 30)
    delta, bounds = paired_difference([1.0, 2.0, 6.0], first, [0.5, 1.0, 1.5], second)
    assert delta == pytest.approx(2.0)
    assert bounds == paired_interval(delta, first, second)
    reverse, other = paired_difference([0.5, 1.0, 1.5], second, [1.0, 2.0, 6.0], first)
    assert (reverse, other) == (-delta, pytest.approx((-bounds[1], -bounds[0])))


def test_interval_of_ranges_follows_student() -> None:
    # t with two degrees of freedom: 4.303; mean 2, deviation 1.
    assert ranges_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert ranges_interval([1.0]) is None
    # With one degree: 12.706; mean 3, deviation 8^(1/2).
    assert ranges_interval([1.0, 5.0]) == pytest.approx((3 - 12.7062 * 2, 3 + 12.7062 * 2), abs=1e-3)


def test_recentred_bootstrap_agrees_in_few_dimensions() -> None:
    generated, real = features_of(noise(1, 300, 4), 1.5, 0.3), features_of(noise(2, 400, 4), 1.0, 0.0)
    point = frechet_distance_from_features(generated, real)
    random = np.random.default_rng(3)
    resampled = np.array(
        [frechet_distance_from_features(generated[random.integers(0, 300, 300)], real) for _ in range(600)]
    )
    low, high = interval(point, frechet_influence(generated, real))
    assert (high - low) / 2 / 1.96 == pytest.approx(resampled.std(ddof=1), rel=0.15)
    recentred = np.percentile(resampled - resampled.mean() + point, [2.5, 97.5])
    assert (low, high) == pytest.approx(tuple(recentred), abs=0.15 * (high - low))


def test_unusable_sets_are_refused() -> None:
    good = features_of(noise(1, 20, 4), 1.0, 0.0)
    damaged = good.copy()
    damaged[8, 0] = np.nan
    with pytest.raises(InputError, match="row 8 "):
        frechet_influence(damaged, good)
    with pytest.raises(InputError, match="at least 2"):
        frechet_influence(good[:1], good)
    with pytest.raises(InputError, match="widths 4 and 3"):
        frechet_influence(good, good[:, :3])
    with pytest.raises(InputError) as caught:
        paired_interval(0.0, np.zeros(20), np.zeros(19))
    assert str(caught.value) == (
        "expected two sets of pictures with the same sample indices; got 20 and 19 pictures; "
        "sample both variants with the same number of images"
    )
    with pytest.raises(InputError, match="2 x 10 and 20 pictures"):
        paired_interval(0.0, np.zeros((2, 10)), np.zeros(20))
    with pytest.raises(InputError) as caught:
        interval(0.0, np.zeros(1))
    assert str(caught.value) == "expected at least 2 influence values; got 1; ask for more images"
    assert interval(0.0, np.zeros(2)) == (0.0, 0.0)
