"""Intervals against repeated simulation and closed forms."""

import numpy as np
import pytest
from scipy import stats

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.metrics.distances import frechet_influence, gaussian_of_features
from discriminator_guidance.metrics.significance import Estimate, holm, standard_error
from tests.metrics.sets import of_noise


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


def test_a_difference_is_paired_by_replicate_and_image() -> None:
    first, second = Estimate((1.0, 2.0, 6.0), noise(1, 30, 3).T), Estimate((0.5, 1.0, 1.5), noise(2, 30, 3).T)
    delta, reverse = first.minus(second), second.minus(first)
    assert delta.mean == pytest.approx(2.0)
    assert delta.interval() == Estimate((0.5, 1.0, 4.5), first.influence - second.influence).interval()
    assert reverse.interval() == pytest.approx(tuple(-bound for bound in reversed(delta.interval())))
    with pytest.raises(InputError, match=r"\(3, 30\) and \(1, 20\)"):
        first.minus(Estimate((0.0,), np.zeros((1, 20))))


def test_the_interval_of_a_ratio_covers_it_over_training_and_sampling() -> None:
    """400 studies of 5 networks and 200 images, a ratio of 0.6 and a training deviation of 10 %."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(400):
        shared = rng.standard_normal((1, 200))
        pair = []
        for truth in (0.6, 1.0):
            images = truth * (1 + 0.1 * rng.standard_normal((5, 1)) + shared + 0.5 * rng.standard_normal((5, 200)))
            values = images.mean(axis=1)
            pair.append(Estimate(tuple(values), images - values[:, None]))
        ratio, low, high = pair[0].ratio(pair[1])
        covered += low <= 0.6 <= high
        assert low < ratio < high
    assert 0.92 <= covered / 400 <= 0.985
    assert np.isnan(pair[0].ratio(Estimate((0.0,) * 5, np.zeros((5, 200))))).all()


def test_spread_of_replicates_beyond_their_own_noise_widens_the_interval() -> None:
    influence = noise(1, 3 * 50).reshape(3, 50)
    influence -= influence.mean(axis=1, keepdims=True)
    sampling = influence.mean(axis=0).var(ddof=1) / 50
    unshared = np.mean([(psi - influence.mean(axis=0)).var(ddof=1) / 50 for psi in influence])
    shared = sampling - unshared / 3
    for values, between in (((2.0, 3.0, 4.0), 1 / 3), ((3.0, 3.0, 3.0), 0.0)):
        freedom = 2 * (shared + between) ** 2 / between**2 if between else np.inf
        half_width = stats.t.ppf(0.975, freedom) * np.sqrt(shared + between)
        assert Estimate(values, influence).interval() == pytest.approx((3 - half_width, 3 + half_width))


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 3.0, 10.0])
def test_intervals_cover_whatever_training_adds_to_sampling(ratio: float) -> None:
    """1,000 studies of 5 networks and 200 images; ratio: of the deviations of training and sampling."""
    generator = np.random.default_rng(int(10 * ratio))
    shared, unshared = generator.standard_normal((1000, 1, 200)), generator.standard_normal((1000, 5, 200))
    training = ratio / 200**0.5 * generator.standard_normal((1000, 5, 1))
    images = 0.8**0.5 * shared + 0.2**0.5 * unshared + training
    values = images.mean(axis=2)
    studies = [Estimate(*study) for study in zip(values, images - values[:, :, None], strict=True)]
    outside = [not low <= 0 <= high for low, high in (study.interval() for study in studies)]
    assert np.mean(outside) == pytest.approx(0.05, abs=0.035)
    assert [study.p_value() < 0.05 for study in studies] == outside


def test_one_network_has_the_interval_and_p_value_of_sampling() -> None:
    influence = noise(1, 400).T - noise(1, 400).mean()
    value = 1.959964 * influence.std(ddof=1) / 20
    measured = Estimate((value,), influence)
    assert measured.interval() == pytest.approx((0, 2 * value), abs=1e-4 * value)
    assert measured.p_value() == Estimate((-value,), influence).p_value() == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("replicates", [1, 3])
def test_equal_variants_differ_by_nothing(replicates: int) -> None:
    measured = Estimate((2.0,) * replicates, noise(1, 50, replicates).T)
    nothing = measured.minus(measured)
    assert nothing.interval() == (0.0, 0.0)
    assert nothing.p_value() == 1.0
    assert Estimate((2.0,) * replicates, np.zeros((replicates, 50))).p_value() == 0.0  # sets of one repeated image


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]), ([0.5, 0.02], [0.5, 0.04]), ([], [])],
)
def test_holm_steps_down_from_the_smallest(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)
