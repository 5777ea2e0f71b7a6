"""Classification scores, calibration and cross entropy of a discriminator."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from dguide.stages.evaluation import classification_scores
from discriminator_guidance.training.trained import calibration_bins, calibration_errors


def pairs(seed: int = 0, count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log ratios that are exactly right: labels drawn with the probability that the log ratio states."""
    random = np.random.default_rng(seed)
    log_ratio = 2 * random.standard_normal(count)
    labels = (random.random(count) < 1 / (1 + np.exp(-log_ratio))).astype(np.int64)
    return log_ratio, labels, random.choice([0.1, 0.5, 0.9], count)


@pytest.mark.parametrize(("decimals", "scale"), [(0, 1.0), (1, 1e4), (8, 30.0)])
def test_scores_are_those_of_scikit_learn_with_ties_and_large_log_ratios(decimals: int, scale: float) -> None:
    log_ratio, labels, _ = pairs(count=600)
    log_ratio = scale * np.round(log_ratio, decimals)
    called_real = log_ratio >= 0
    expected = {
        "precision": precision_score(labels, called_real),
        "recall": recall_score(labels, called_real),
        "accuracy": accuracy_score(labels, called_real),
        "auroc": roc_auc_score(labels, log_ratio),
    }
    assert classification_scores(log_ratio, labels) == pytest.approx(expected, rel=1e-6)


def test_calibration_error_is_that_of_torchmetrics_and_finds_overconfidence_at_its_time() -> None:
    log_ratio, labels, time = pairs(count=20_000)
    overconfident = np.where(time == 0.9, 4 * log_ratio, log_ratio)
    errors = calibration_errors(calibration_bins(overconfident, labels, time, bins=15))
    assert list(errors) == [0.1, 0.5, 0.9]
    for moment, error in errors.items():
        here = time == moment
        probability = torch.sigmoid(torch.from_numpy(overconfident[here]))
        public = binary_calibration_error(probability, torch.from_numpy(labels[here]), n_bins=15)
        assert error == pytest.approx(float(public), abs=1e-6)
    assert errors[0.1] < 0.02 < 0.08 < errors[0.9]
