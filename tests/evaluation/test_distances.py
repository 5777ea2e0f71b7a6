"""Frechet and kernel distances against public implementations, closed forms and invariances."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.distances import (
    covariance_root,
    frechet_distance,
    frechet_distance_from_features,
    gaussian_statistics,
    kid,
    trace_of_root,
)
from tests.amount import FULL
from tests.evaluation.public_metrics import fid_torchmetrics, kid_torchmetrics


def correlated(seed: int, count: int, width: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Skewed, correlated features, like those of a network that ends in a ReLU."""
    mixing = np.random.default_rng(99).standard_normal((width, width)) / np.sqrt(width)
    normal = np.random.default_rng(seed).standard_normal((count, width))
    return np.logaddexp(0, scale * normal @ mixing + shift)


def from_statistics(generated: np.ndarray, real: np.ndarray) -> float:
    return frechet_distance(*gaussian_statistics(generated), *gaussian_statistics(real))


def rotation(seed: int, width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


def check_trace(spectrum: np.ndarray) -> None:
    width = len(spectrum)
    turn = rotation(5, width)
    generated = np.random.default_rng(1).standard_normal((3 * width, width)) * spectrum @ turn
    real = np.random.default_rng(2).standard_normal((4 * width, width)) * spectrum @ turn
    exact = np.linalg.svd(covariance_root(generated) @ covariance_root(real).T, compute_uv=False).sum()
    with np.errstate(all="raise"):
        trace = trace_of_root(gaussian_statistics(generated)[1], gaussian_statistics(real)[1])
    assert trace == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("width", "count"), [(2, 50), (16, 40), (64, 300), (192, 500)])
def test_every_public_implementation_gives_the_same_distance(width: int, count: int) -> None:
    generated, real = correlated(1, count, width, 1.2, 0.1), correlated(2, count + 7, width)
    distance = from_statistics(generated, real)
    statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in (generated, real)]
    public = {
        "torchmetrics": fid_torchmetrics(generated, real),
        "pytorch-fid": calculate_frechet_distance(*gaussian_statistics(generated), *gaussian_statistics(real)),
        "torch-fidelity": fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"],
        "from features": frechet_distance_from_features(generated, real),
    }
    assert public == pytest.approx(dict.fromkeys(public, distance), rel=1e-6)


def test_single_precision_features_keep_a_double_result() -> None:
    generated, real = correlated(1, 60, 8).astype(np.float32), correlated(2, 60, 8, 1.1).astype(np.float32)
    reported = frechet_distance_from_features(generated, real)
    assert reported != float(np.float32(reported))
    double = frechet_distance_from_features(generated.astype(float), real.astype(float))
    assert reported == pytest.approx(double, rel=1e-12)


def test_the_distance_of_many_features_is_that_of_torchmetrics() -> None:
    width = 2048 if FULL else 256
    generated, real = correlated(1, width + 100, width, 1.2, 0.1), correlated(2, width + 150, width)
    assert frechet_distance_from_features(generated, real) == pytest.approx(fid_torchmetrics(generated, real), rel=1e-6)


def test_axis_aligned_gaussians_have_a_closed_form() -> None:
    deviations1, deviations2 = np.array([1.0, 2.0, 0.5]), np.array([1.5, 2.0, 0.0])
    mu1, mu2 = np.array([1.0, 0.0, -1.0]), np.array([0.0, 0.0, 1.0])
    expected = np.sum((mu1 - mu2) ** 2) + np.sum((deviations1 - deviations2) ** 2)
    distance = frechet_distance(mu1, np.diag(deviations1**2), mu2, np.diag(deviations2**2))
    assert distance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("padding", [1, 30])
def test_dimensions_without_spread_add_nothing(padding: int, swapped: bool) -> None:
    # Features of a 12-dimensional subspace, turned so that no coordinate is 0.
    generated, real = correlated(1, 60, 12, 1.3), correlated(2, 50, 12)
    expected = from_statistics(generated, real)
    turn = rotation(3, 12 + padding)
    wide = [np.pad(features, ((0, 0), (0, padding))) @ turn for features in (generated, real)]
    if swapped:
        wide.reverse()
    assert from_statistics(*wide) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance_from_features(*wide) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("count", "other"), [(20, 25), (20, 200), (200, 20), (40, 41), (2, 2)])
def test_fewer_samples_than_dimensions(count: int, other: int) -> None:
    generated, real = correlated(1, count, 40, 1.2, 0.3), correlated(2, other, 40)
    exact = frechet_distance_from_features(generated, real)
    assert from_statistics(generated, real) == pytest.approx(exact, rel=1e-9)
    # torchmetrics' eigenvalues of a product of singular matrices cost it half of the digits.
    assert fid_torchmetrics(generated, real) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("smallest", [1e-6, 1e-10, 1e-16])
def test_tiny_eigenvalues_do_not_spoil_the_trace(smallest: float) -> None:
    spectrum = np.sqrt(np.geomspace(1, smallest, 48))
    check_trace(spectrum)


@pytest.mark.parametrize("rest", [1e-6, 5e-8, 1e-8, 1e-12])
def test_one_large_direction_does_not_drown_the_others(rest: float) -> None:
    # Here L^T S L has eigenvalues near rest^2, just above or below the rounding of the largest.
    check_trace(np.sqrt(np.array([1.0] + [rest] * 191)))


@pytest.mark.parametrize("seed", range(10))
def test_an_eigenvalue_that_is_rounding_is_not_rooted(seed: int) -> None:
    # The root of a rounding error of 1e-16 would add 1e-8.
    random = np.random.default_rng(seed)
    full, flat = random.standard_normal((3, 3)), random.standard_normal((2, 3))
    exact = np.linalg.svd(full @ flat.T, compute_uv=False).sum()
    assert trace_of_root(full.T @ full, flat.T @ flat) == pytest.approx(exact, rel=1e-12)
    assert trace_of_root(flat.T @ flat, full.T @ full) == pytest.approx(exact, rel=1e-12)


def test_copies_of_one_picture_are_a_point() -> None:
    generated, real = np.full((5, 6), 0.3), correlated(2, 40, 6)
    mean, covariance = gaussian_statistics(real)
    expected = np.sum((mean - 0.3) ** 2) + np.trace(covariance)
    assert from_statistics(generated, real) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance_from_features(generated, real) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [20, 300])
def test_a_set_has_no_distance_to_itself(count: int) -> None:
    features = correlated(1, count, 32)
    assert from_statistics(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance_from_features(features, features) == pytest.approx(0, abs=1e-9)


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 12),
    count=st.integers(2, 40),
    offset=st.floats(-10, 10),
    scale=st.floats(0.1, 10),
)
@settings(max_examples=60, deadline=None)
def test_motions_change_nothing_and_units_square(
    seed: int, width: int, count: int, offset: float, scale: float
) -> None:
    generated, real = correlated(seed, count, width, 1.5), correlated(seed + 1, count + 3, width)
    turn = rotation(seed, width)
    distance = frechet_distance_from_features(generated, real)
    moved = frechet_distance_from_features(generated @ turn + offset, real @ turn + offset)
    tolerance = 1e-9 * (1 + offset**2)
    assert moved == pytest.approx(distance, rel=1e-7, abs=tolerance)
    assert frechet_distance_from_features(real, generated) == pytest.approx(distance, rel=1e-7, abs=1e-9)
    assert frechet_distance_from_features(scale * generated, scale * real) == pytest.approx(
        scale**2 * distance, rel=1e-7, abs=1e-7
    )
    assert distance > -1e-9


def test_statistics_are_the_unbiased_ones() -> None:
    features = correlated(1, 30, 5)
    mean, covariance = gaussian_statistics(features)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(features, rowvar=False), rtol=1e-12)
    for count in (3, 30):
        root = covariance_root(features[:count])
        assert root.shape == (min(count, 5), 5)
        np.testing.assert_allclose(root.T @ root, np.cov(features[:count], rowvar=False), atol=1e-13)


def test_means_of_single_precision_features_are_taken_in_double() -> None:
    single = (100 + correlated(1, 30, 5)).astype(np.float32)
    np.testing.assert_allclose(covariance_root(single), covariance_root(single.astype(np.float64)), atol=1e-12)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_trace_is_as_exact_in_any_unit(unit: float) -> None:
    check_trace(unit * np.sqrt(np.geomspace(1, 1e-10, 48)))
    check_trace(unit * np.ones(5))


@pytest.mark.parametrize("place", [1, 2, 3])
def test_misfitting_statistics_are_refused(place: int) -> None:
    mean, covariance = gaussian_statistics(correlated(1, 30, 5))
    given = [mean, covariance, mean, covariance]
    given[place] = given[place][(slice(4),) * given[place].ndim]
    shapes = ["(5,)", "(5, 5)", "(5,)", "(5, 5)"]
    shapes[place] = shapes[place].replace("5", "4")
    with pytest.raises(InputError) as caught:
        frechet_distance(*given)
    assert str(caught.value) == (
        "expected means of shape (5,) and covariances of shape (5, 5); "
        f"got shapes {shapes[0]}, {shapes[1]}, {shapes[2]} and {shapes[3]}; extract both sets with the same network"
    )


@pytest.mark.parametrize("place", range(4))
def test_damaged_statistics_are_refused(place: int) -> None:
    given = [*gaussian_statistics(correlated(1, 30, 5)), *gaussian_statistics(correlated(2, 30, 5))]
    given[place].flat[-1] = np.nan
    with pytest.raises(InputError) as caught:
        frechet_distance(*given)
    assert str(caught.value) == (
        "expected finite means and covariances; got a value that is not finite; "
        "look for damaged pictures in the two sets"
    )


def test_unusable_features_are_refused() -> None:
    distance = frechet_distance_from_features
    good = correlated(1, 10, 4)
    damaged = good.copy()
    damaged[6, 2] = np.nan
    with pytest.raises(InputError, match="row 6 "):
        distance(damaged, good)
    with pytest.raises(InputError, match="at least 2"):
        distance(good[:1], good)
    with pytest.raises(InputError, match="widths 4 and 3"):
        distance(good, good[:, :3])


def unbiased_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, Eq. 4, term by term."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    m = len(x)
    within = sum((kernel(z, z).sum() - np.trace(kernel(z, z))) / (m * (m - 1)) for z in (x, y))
    return float(within - 2 * kernel(x, y).mean())


def test_one_subset_of_everything_is_the_unbiased_mmd() -> None:
    generated, real = correlated(1, 40, 6, 1.4), correlated(2, 40, 6)
    mean, deviation = kid(generated, real, subsets=3, subset_size=40, seed=0)
    assert mean == pytest.approx(unbiased_mmd2(generated, real), rel=1e-10)
    assert deviation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 3, 2**40])
@pytest.mark.parametrize(("count", "other", "size"), [(40, 50, 20), (60, 30, 30), (9, 8, 2)])
def test_kid_is_that_of_torchmetrics_on_the_same_subsets(count: int, other: int, size: int, seed: int) -> None:
    generated, real = correlated(1, count, 6, 1.4), correlated(2, other, 6)
    expected = kid_torchmetrics(generated, real, 7, size, seed)
    assert kid(generated, real, 7, size, seed) == pytest.approx(expected, rel=1e-9)
    single = generated.astype(np.float32), real.astype(np.float32)
    assert kid(*single, 7, size, seed) == pytest.approx(kid_torchmetrics(*single, 7, size, seed), rel=1e-9)


def test_kid_subsets_depend_on_the_seed_alone() -> None:
    generated, real = correlated(1, 40, 6, 1.4), correlated(2, 50, 6)
    torch.manual_seed(1)
    first = kid(generated, real, subsets=5, subset_size=20, seed=3)
    following = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == following, "the global generator was disturbed"
    assert kid(generated, real, subsets=5, subset_size=20, seed=3) == first
    assert kid(generated, real, subsets=5, subset_size=20, seed=4) != first
    assert first[1] > 0


def test_kid_tells_apart_what_differs() -> None:
    real = correlated(2, 200, 6)
    same, same_deviation = kid(correlated(1, 200, 6), real, subsets=20, subset_size=100, seed=0)
    other, _ = kid(correlated(1, 200, 6, 2.0, 0.5), real, subsets=20, subset_size=100, seed=0)
    assert abs(same) < 3 * same_deviation
    assert other > 10 * same_deviation


@pytest.mark.parametrize(("subsets", "size"), [(5, 31), (5, 1), (0, 10)])
def test_impossible_kid_subsets_are_refused(subsets: int, size: int) -> None:
    with pytest.raises(InputError) as caught:
        kid(correlated(1, 30, 4), correlated(2, 40, 4), subsets, size, seed=0)
    assert str(caught.value) == (
        f"expected at least 1 KID subset of 2 to 30 pictures; got {subsets} subsets of {size}; "
        "change the number or the size of the KID subsets, or sample more images"
    )


def test_the_smallest_kid_is_one_subset_of_two_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, deviation = kid(correlated(1, 2, 4), correlated(2, 2, 4), subsets=1, subset_size=2, seed=0)
    assert mean == pytest.approx(unbiased_mmd2(correlated(1, 2, 4), correlated(2, 2, 4)), rel=1e-10)
    assert deviation == 0
