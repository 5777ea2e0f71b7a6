"""Classification scores, calibration and cross entropy of a discriminator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_calibration_error,
    binary_precision,
    binary_recall,
)

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.classification import (
    calibration_bins,
    classification_scores,
    cross_entropy_by_time,
    expected_calibration_error,
)


def pairs(seed: int = 0, count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log ratios that are exactly right: labels drawn with the probability the log ratio states."""
    random = np.random.default_rng(seed)
    log_ratio = 2 * random.standard_normal(count)
    labels = (random.random(count) < 1 / (1 + np.exp(-log_ratio))).astype(np.int64)
    return log_ratio, labels, random.choice([0.1, 0.5, 0.9], count)


def test_scores_by_hand() -> None:
    scores = classification_scores(np.array([3.0, 1.0, -1.0, 2.0, -2.0, -0.5, -3.0]), np.array([1, 1, 1, 0, 0, 0, 0]))
    # Called real: the first, second and fourth; 12 pairs of real and fake, 9 in the right order.
    assert scores.precision == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx(2 / 3)
    assert scores.accuracy == pytest.approx(5 / 7)
    assert scores.auroc == pytest.approx(9 / 12)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_scores_are_those_of_torchmetrics(decimals: int) -> None:
    log_ratio, labels, _ = pairs(count=600)
    log_ratio = np.round(log_ratio, decimals)
    target, called_real = torch.from_numpy(labels), torch.from_numpy((log_ratio >= 0).astype(np.int64))
    # torchmetrics takes a sigmoid of what is not in [0, 1].
    probability = torch.sigmoid(torch.from_numpy(log_ratio))
    scores = classification_scores(log_ratio, labels)
    assert scores.precision == pytest.approx(float(binary_precision(called_real, target)), rel=1e-6)
    assert scores.recall == pytest.approx(float(binary_recall(called_real, target)), rel=1e-6)
    assert scores.accuracy == pytest.approx(float(binary_accuracy(called_real, target)), rel=1e-6)
    assert scores.auroc == pytest.approx(float(binary_auroc(probability, target)), rel=1e-6)


def test_probability_one_half_counts_as_real() -> None:
    scores = classification_scores(np.zeros(4), np.array([1, 0, 0, 0]))
    assert scores.recall == 1
    assert scores.precision == pytest.approx(1 / 4)
    assert scores.auroc == pytest.approx(1 / 2)


def test_log_ratios_inside_the_unit_interval_are_not_taken_for_probabilities() -> None:
    # All positive, so all called real, although three lie below 0.5.
    scores = classification_scores(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 1, 0, 1]))
    assert scores.recall == 1
    assert scores.precision == pytest.approx(1 / 2)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_auroc_keeps_the_order_of_large_log_ratios(scale: float) -> None:
    log_ratio, labels, _ = pairs()
    log_ratio = np.round(log_ratio, 2)
    expected = roc_auc_score(labels, log_ratio)
    assert classification_scores(scale * log_ratio, labels).auroc == pytest.approx(expected, abs=1e-6)
    single = (scale * log_ratio).astype(np.float32)
    assert classification_scores(single, labels).auroc == pytest.approx(expected, abs=1e-6)


def test_no_picture_called_real_has_no_precision() -> None:
    scores = classification_scores(np.full(4, -1.0), np.array([1, 0, 0, 0]))
    assert (scores.precision, scores.recall, scores.accuracy) == (0, 0, pytest.approx(3 / 4))


def test_bins_hold_every_picture_once_and_state_their_means() -> None:
    log_ratio, labels, time = pairs()
    entries = calibration_bins(log_ratio, labels, time)
    assert sum(entry.count for entry in entries) == len(labels)
    probability = 1 / (1 + np.exp(-log_ratio))
    for entry in entries:
        inside = (time == entry.time) & (probability >= entry.bin_low) & (probability < entry.bin_high)
        assert entry.count == inside.sum()
        assert entry.mean_probability == pytest.approx(probability[inside].mean())
        assert entry.fraction_real == pytest.approx(labels[inside].mean())
    keys = [(entry.time, entry.bin_low) for entry in entries]
    assert keys == sorted(keys)


def test_single_precision_is_left_before_probabilities_are_formed() -> None:
    log_ratio, labels, time = pairs(count=50)
    single = log_ratio.astype(np.float32)
    entries = calibration_bins(single, labels, time, bins=1)
    assert entries == calibration_bins(single.astype(np.float64), labels, time, bins=1)
    assert [entry.mean_probability for entry in entries] == pytest.approx(
        [(1 / (1 + np.exp(-single[time == entry.time].astype(np.float64)))).mean() for entry in entries], rel=1e-12
    )
    losses = cross_entropy_by_time(single, labels, time)
    assert losses == cross_entropy_by_time(single.astype(np.float64), labels, time)


def test_edges_belong_to_the_upper_bin_and_one_to_the_last() -> None:
    entries = calibration_bins(np.array([0.0, 1e3, -1e3]), np.array([1, 1, 0]), np.full(3, 0.5))
    bounds = np.array([(entry.bin_low, entry.bin_high) for entry in entries])
    np.testing.assert_allclose(bounds, [(0.0, 0.1), (0.5, 0.6), (0.9, 1.0)])


def test_calibration_error_is_that_of_torchmetrics() -> None:
    log_ratio, labels, time = pairs()
    errors = expected_calibration_error(calibration_bins(3 * log_ratio, labels, time, bins=15))
    assert list(errors) == [0.1, 0.5, 0.9]
    for moment, error in errors.items():
        here = time == moment
        probability = torch.sigmoid(torch.from_numpy(3 * log_ratio[here]))
        public = binary_calibration_error(probability, torch.from_numpy(labels[here]), n_bins=15)
        assert error == pytest.approx(float(public), abs=1e-6)


def test_calibration_error_finds_overconfidence_at_its_time() -> None:
    log_ratio, labels, time = pairs(count=20_000)
    overconfident = np.where(time == 0.9, 4 * log_ratio, log_ratio)
    errors = expected_calibration_error(calibration_bins(overconfident, labels, time))
    assert errors[0.1] < 0.02
    assert errors[0.5] < 0.02
    assert errors[0.9] > 0.08


def test_cross_entropy_by_time_is_that_of_torch() -> None:
    log_ratio, labels, time = pairs()
    losses = cross_entropy_by_time(log_ratio, labels, time)
    for moment, loss in losses.items():
        here = time == moment
        public = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.from_numpy(log_ratio[here]), torch.from_numpy(labels[here]).double()
        )
        assert loss == pytest.approx(float(public), rel=1e-12)


def test_cross_entropy_of_a_guess_and_of_a_large_mistake() -> None:
    losses = cross_entropy_by_time(np.array([0.0, 1e4, -1e4]), np.array([1, 0, 0]), np.array([0.1, 0.2, 0.3]))
    assert losses == pytest.approx({0.1: np.log(2), 0.2: 1e4, 0.3: 0.0})


@pytest.mark.parametrize(
    ("log_ratio", "labels", "message"),
    [
        (
            np.zeros(3),
            np.array([0, 1]),
            "expected log ratios, labels and times of one length, at least 1; got shapes (3,), (2,); "
            "rebuild the stage `discriminator`",
        ),
        (
            np.zeros(0),
            np.zeros(0, dtype=int),
            "expected log ratios, labels and times of one length, at least 1; got shapes (0,), (0,); "
            "rebuild the stage `discriminator`",
        ),
        (
            np.array([0.0, np.nan]),
            np.array([0, 1]),
            "expected finite log ratios; got NaN or infinity in row 1 (1 such rows of 2); "
            "look at sample 1: the picture or the network that produced it is damaged",
        ),
        (
            np.zeros(7),
            np.arange(7),
            "expected labels 0 (fake) and 1 (real); got labels [0 1 2 3 4]; rebuild the stage `discriminator`",
        ),
        *(
            (
                np.zeros(2),
                np.full(2, label),
                f"expected real and fake pictures; got {2 * label} real of 2; test on a split that holds both classes",
            )
            for label in (0, 1)
        ),
    ],
)
def test_unusable_pairs_are_refused(log_ratio: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError) as caught:
        classification_scores(log_ratio, labels)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (np.array([0.5]), r"shapes \(2,\), \(2,\), \(1,\)"),
        (np.array([0.5, np.nan]), "expected finite times; got .* row 1 "),
    ],
)
def test_unusable_times_are_refused(time: np.ndarray, message: str) -> None:
    for by_time in (calibration_bins, cross_entropy_by_time):
        with pytest.raises(InputError, match=message):
            by_time(np.zeros(2), np.array([0, 1]), time)


def test_a_single_picture_that_is_called_real_has_the_precision_of_one() -> None:
    scores = classification_scores(np.array([1.0, -1.0, -2.0]), np.array([1, 1, 0]))
    assert (scores.precision, scores.recall) == (1.0, 0.5)
