"""Published statistics as a reference: the same distance and influence as the features they came from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.distances import gaussian_statistics
from discriminator_guidance.evaluation.reference import reference_of_features, reference_of_statistics
from discriminator_guidance.evaluation.significance import frechet_influence, influence_on

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def features(seed: int, count: int, width: int = 6) -> np.ndarray:
    mixing = np.random.default_rng(7).standard_normal((width, width))
    return np.random.default_rng(seed).standard_normal((count, width)) @ mixing + 0.1 * seed


@pytest.mark.parametrize("count", [80, 5])
def test_statistics_of_features_are_as_good_as_the_features(count: int) -> None:
    generated, real = features(1, 60), features(2, count)
    published = reference_of_statistics(*gaussian_statistics(real), 6, "real.npz")
    own = reference_of_features(real)
    assert published.distance(generated) == pytest.approx(own.distance(generated), rel=1e-6)
    np.testing.assert_allclose(published.root.T @ published.root, own.root.T @ own.root, atol=1e-12)
    influence = influence_on(generated, published.mean, published.root)
    np.testing.assert_allclose(influence, frechet_influence(generated, real), atol=1e-6)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_rounded_covariance_is_one_and_a_wrong_one_is_not_in_any_unit(unit: float) -> None:
    mu, sigma = gaussian_statistics(features(2, 5))  # five pictures: eigenvalues that are 0
    noise = np.random.default_rng(0).standard_normal(sigma.shape)
    rounded = reference_of_statistics(mu, unit * (sigma + 1e-12 * noise), 6, "real.npz")
    np.testing.assert_allclose(rounded.root.T @ rounded.root, unit * sigma, atol=1e-9 * unit)
    with pytest.raises(InputError, match="a symmetric sigma"):
        reference_of_statistics(mu, unit * (sigma + 1e-6 * np.abs(sigma).max() * noise), 6, "real.npz")
    with pytest.raises(InputError, match="positive semi-definite"):
        reference_of_statistics(mu, unit * (sigma - 1e-6 * np.abs(sigma).max() * np.eye(6)), 6, "real.npz")


def test_rounding_is_measured_by_the_largest_direction() -> None:
    # Negative by less than 1e-8 of the largest eigenvalue, by more than that of the second.
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    sigma = turn @ np.diag([1e6, 1.0, -1e-4]) @ turn.T
    root = reference_of_statistics(np.zeros(3), (sigma + sigma.T) / 2, 3, "real.npz").root
    np.testing.assert_allclose(root.T @ root, sigma, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda mu, sigma: (mu[:5], sigma[:5, :5]), r"mu of shape \(6,\) .* shapes \(5,\) and \(5, 5\)"),
        (lambda mu, sigma: (mu[None], sigma), r"shapes \(1, 6\)"),
        (lambda mu, sigma: (mu, sigma[:5]), r"shapes \(6,\) and \(5, 6\)"),
        (lambda mu, sigma: (mu * np.nan, sigma), "finite numbers in .*; got a value that is not finite; "),
        (lambda mu, sigma: (mu, sigma * np.inf), "finite numbers in .*; got a value that is not finite; "),
        (lambda mu, sigma: (mu.astype(str), sigma), "finite numbers in .*; got a value that is not finite; "),
        (lambda mu, sigma: (mu, sigma + np.triu(np.ones((6, 6)))), "a symmetric sigma"),
        (lambda mu, sigma: (mu, sigma - np.eye(6) * np.linalg.eigvalsh(sigma)[1]), "positive semi-definite"),
        (lambda mu, sigma: (mu, -sigma), "positive semi-definite"),
    ],
)
def test_what_is_no_gaussian_of_these_features_is_refused(change: Change, told: str) -> None:
    mu, sigma = change(*gaussian_statistics(features(2, 80)))
    with pytest.raises(InputError, match=told) as caught:
        reference_of_statistics(mu, sigma, 6, "cifar10-32x32.npz")
    assert str(caught.value).startswith("expected ")
    assert caught.value.expected.endswith(" in cifar10-32x32.npz")
    assert caught.value.remedy == "get the file again, or set evaluation.reference_statistics to null"
