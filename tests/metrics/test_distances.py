"""Frechet and kernel distance, precision and recall, and their influence values, by definition; see also golden/."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from dguide.stages.evaluation import floor_distance, gaussian_of_statistics
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.metrics import distances
from discriminator_guidance.metrics.distances import KernelSet, frechet_influence, gaussian_of_features, kid_influence
from tests.metrics.sets import correlated, gaussian_statistics


@pytest.mark.parametrize(("count", "reference", "width"), [(60, 80, 6), (15, 60, 20), (60, 15, 20), (12, 15, 20)])
def test_influence_is_the_derivative_by_the_weight_of_a_sample(count: int, reference: int, width: int) -> None:
    generated, real = correlated(1, count, width, 1.4, 0.3), correlated(2, reference, width)

    def distance(weights: np.ndarray) -> float:
        mean = weights @ generated
        root = np.sqrt(count / (count - 1) * weights)[:, None] * (generated - mean)
        return distances.distance_of_gaussians(
            distances.Gaussian(*map(torch.from_numpy, (mean, root))), gaussian_of_features(real)
        )

    _, influence = frechet_influence(generated, gaussian_of_features(real))
    for row in (0, 5, count - 1):
        direction = 1e-3 / count * (np.eye(count)[row] - 1 / count)
        slope = (distance(1 / count + direction) - distance(1 / count - direction)) / (2e-3 / count)
        assert influence[row] == pytest.approx(slope, rel=1e-4, abs=1e-4)
    assert influence.mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("count", [80, 5])  # of five images, eigenvalues are 0
@pytest.mark.parametrize("rounding", [0, 1e-13])
def test_published_statistics_are_as_good_as_the_features(count: int, rounding: float) -> None:
    generated, real = correlated(1, 60, 6), correlated(2, count, 6)
    mu, sigma = gaussian_statistics(real)
    noise = rounding * np.random.default_rng(0).standard_normal(sigma.shape)
    measured = frechet_influence(generated, gaussian_of_statistics(mu, sigma + noise, 6, "real.npz"))
    for value, expected in zip(measured, frechet_influence(generated, gaussian_of_features(real)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mu, sigma: (mu[:5], sigma[:5, :5]), r"mu \(5,\) .* sigma \(5, 5\)"),
        (lambda mu, sigma: (mu, sigma[:5]), r"mu \(6,\) .* sigma \(5, 6\)"),
        (lambda mu, sigma: (mu, 0 * sigma), "the eigenvalue 0"),
        (lambda mu, sigma: (mu.astype(str), sigma), "<U32 and .* float64"),
        (lambda mu, sigma: (mu, sigma * np.inf), r"in statistics\.npz are not finite numbers of shapes \(6,\)"),
        (lambda mu, sigma: (mu, 1e6 * (sigma + 1e-6 * np.triu(sigma))), "asymmetry"),
        (lambda mu, sigma: (mu, 1e-6 * (sigma - 1.1 * np.linalg.eigvalsh(sigma)[0] * np.eye(6))), "eigenvalue -"),
    ],
)
def test_what_is_no_gaussian_of_these_features_is_refused(
    change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], message: str
) -> None:
    with pytest.raises(InputError, match=rf"{message}.*; get the file again"):
        gaussian_of_statistics(*change(*gaussian_statistics(correlated(2, 80, 6))), 6, "statistics.npz")


def test_features_of_another_network_are_refused() -> None:
    with pytest.raises(InputError, match="of one network"):
        distances.frechet_distance(correlated(1, 10, 3), correlated(2, 20, 4))


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_the_jackknife_takes_out_the_bias_of_few_images(scale: float) -> None:
    exact, reference = 8 * (scale - 1) ** 2, distances.Gaussian(torch.zeros(8).double(), torch.eye(8).double())
    sets = [normal(seed, 200, scale, 8) for seed in range(100)]
    plain = np.mean([frechet_influence(features, reference)[0] for features in sets])
    debiased = np.mean([distances.debiased_distance(features, reference) for features in sets])
    assert abs(debiased - exact) < 0.2 * (plain - exact)


def test_the_floor_is_the_distance_of_new_real_images() -> None:
    real = normal(0, 4000, width=8)
    whole = gaussian_of_features(real)
    new = [frechet_influence(normal(seed, 200, width=8), whole)[0] for seed in range(1, 41)]
    floor, again, other, fourth = (floor_distance(real, whole, *at) for at in ((200, 0), (200, 0), (200, 1), (800, 0)))
    assert floor == pytest.approx(np.mean(new), rel=0.25)
    assert floor == again != other
    assert fourth == pytest.approx(floor / 4, rel=0.25)


def unbiased_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, Eq. 4, term by term."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    within = sum((kernel(z, z).sum() - np.trace(kernel(z, z))) / (len(z) * (len(z) - 1)) for z in (x, y))
    return float(within - 2 * kernel(x, y).mean())


def test_influence_on_kid_is_the_jackknife_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = correlated(1, 600, 6, 1.4).astype(np.float32).astype(float), correlated(2, 700, 6)
    whole = kid_influence(KernelSet.of(generated.astype(np.float32)), KernelSet.of(real))
    monkeypatch.setattr(distances, "BLOCK", 7 * 700)
    distance, influence = kid_influence(KernelSet.of(generated), KernelSet.of(real))
    assert distance == pytest.approx(whole[0], rel=1e-9)
    np.testing.assert_allclose(influence, whole[1], atol=1e-9)
    assert distance == pytest.approx(unbiased_mmd2(generated, real), rel=1e-9)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    for row in (0, 300, 599):
        without = unbiased_mmd2(np.delete(generated, row, axis=0), real)
        assert influence[row] == pytest.approx(599 * (distance - without), abs=0.01 * influence.std())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_kid() -> None:
    generated, real = correlated(1, 600, 6, 1.4), correlated(2, 700, 6)
    expected = kid_influence(KernelSet.of(generated), KernelSet.of(real))
    distance, influence = kid_influence(KernelSet.of(generated, "cuda"), KernelSet.of(real, "cuda"))
    assert distance == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(influence, expected[1], atol=1e-9)


def normal(seed: int, count: int, scale: float = 1.0, width: int = 5) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((count, width))


def of_torch_fidelity(generated: np.ndarray, real: np.ndarray, neighborhood: int) -> tuple[float, float]:
    sets = [torch.from_numpy(features).double() for features in (generated, real)]
    options = {"prc_neighborhood": neighborhood, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    shares = prc_features_to_metric(*sets, **options)
    # It divides in float32; what it counted is exact.
    return round(shares["precision"] * len(generated)) / len(generated), round(shares["recall"] * len(real)) / len(real)


@pytest.mark.parametrize(("generated", "real", "neighborhood"), [(60, 50, 3), (40, 80, 1)])
def test_influence_is_what_leaving_an_image_out_takes_away(generated: int, real: int, neighborhood: int) -> None:
    x, y = (rows.astype(np.float32) for rows in (normal(1, generated, scale=1.3), normal(2, real)))
    rows = range(generated)
    without = np.array([of_torch_fidelity(np.delete(x, row, axis=0), y, neighborhood) for row in rows])
    expected = (generated - 1) * (without.mean(axis=0) - without)
    assert np.ptp(expected, axis=0).min() > 0
    shares = distances.precision_recall(x, y, neighborhood, block=17)
    assert tuple(share.mean for share in shares) == of_torch_fidelity(x, y, neighborhood)
    np.testing.assert_allclose(np.concatenate([share.influence for share in shares]).T, expected, atol=1e-10)


def test_intervals_of_shares_and_of_their_differences_stay_within_what_shares_can_be() -> None:
    x, y = normal(1, 60, scale=1.3), normal(2, 50)
    _, recall = distances.precision_recall(x, y, 2)
    low, high = recall.interval()
    assert high == 1.0 < 2 * recall.mean - low, "the other half of the interval is longer than there is room"
    _, nothing = distances.precision_recall(x + 100, y, 8)
    assert nothing.interval() == (0, 0)
    assert recall.minus(nothing).interval()[1] == 1.0
