"""Real (1) against fake (0) by a discriminator's logits: scores and calibration."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from discriminator_guidance.metrics.features import Floats

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class CalibrationBin:
    """The images of one VP time with a probability in [bin_low, bin_high), 1 included in the last bin."""

    time: float
    bin_low: float
    bin_high: float
    mean_probability: float
    fraction_real: float
    count: int


def classification_scores(log_ratio: Floats, labels: Labels) -> dict[str, float]:
    """Precision, recall, accuracy and auroc, in [0, 1], of (N,) logits; 0 or more (probability 0.5) means real.

    *Deviation:* the reproduction averaged precision and recall over batches; here they are of all images.
    """
    from torchmetrics.functional.classification import binary_accuracy, binary_auroc, binary_precision, binary_recall

    target, called_real = torch.from_numpy(labels == 1).long(), torch.from_numpy(log_ratio >= 0).long()
    # Ranks in [0, 1]: torchmetrics would take the sigmoid of logits, which makes large ones equal.
    _, rank = np.unique(log_ratio, return_inverse=True)
    return {
        "precision": float(binary_precision(called_real, target)),
        "recall": float(binary_recall(called_real, target)),
        "accuracy": float(binary_accuracy(called_real, target)),
        "auroc": float(binary_auroc(torch.from_numpy(rank / len(rank)), target)),
    }


def calibration_bins(log_ratio: Floats, labels: Labels, time: Floats, bins: int = 10) -> list[CalibrationBin]:
    """Mean probability and share of real images, for every VP time and every bin that holds images, in this order.

    Guo et al. 2017, Section 2, with the probability of the positive class.
    """
    probability = torch.sigmoid(torch.from_numpy(log_ratio).double()).numpy()
    edges = np.linspace(0, 1, bins + 1)
    bin_index = np.minimum(np.searchsorted(edges, probability, side="right") - 1, bins - 1)
    entries = []
    for moment in np.unique(time):
        for index in np.unique(bin_index[time == moment]):
            inside = (time == moment) & (bin_index == index)
            low, high = float(edges[index]), float(edges[index + 1])
            expected, observed = float(probability[inside].mean()), float(labels[inside].mean())
            entries.append(CalibrationBin(float(moment), low, high, expected, observed, int(inside.sum())))
    return entries


def expected_calibration_error(entries: list[CalibrationBin]) -> dict[float, float]:
    """Mean |mean_probability - fraction_real| over images, in [0, 1], by VP time (Guo et al. 2017, Eq. 3)."""
    errors = {}
    for moment in dict.fromkeys(entry.time for entry in entries):
        here = [entry for entry in entries if entry.time == moment]
        gap = sum(entry.count * abs(entry.mean_probability - entry.fraction_real) for entry in here)
        errors[moment] = gap / sum(entry.count for entry in here)
    return errors
