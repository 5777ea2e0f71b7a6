"""How well a discriminator tells real (1) from fake (0), and whether its probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import require_finite_rows

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a discriminator as a classifier, all in [0, 1]; real is the positive class.

    Args:
        precision: share of pictures called real that are real; 0 when none is called real.
        recall: share of real pictures that are called real.
        accuracy: share of pictures called right.
        auroc: chance that a real picture has a larger log ratio than a fake one, ties counted half.
    """

    precision: float
    recall: float
    accuracy: float
    auroc: float


@dataclass(frozen=True)
class CalibrationBin:
    """Pictures of one VP time whose probabilities lie in [bin_low, bin_high); the last bin includes 1.

    Args:
        time: VP time.
        bin_low: lower edge of the bin.
        bin_high: upper edge of the bin.
        mean_probability: what the discriminator expected, the mean probability of being real.
        fraction_real: what was observed, the share of real pictures.
        count: number of pictures, at least 1.
    """

    time: float
    bin_low: float
    bin_high: float
    mean_probability: float
    fraction_real: float
    count: int


def classification_scores(log_ratio: Floats, labels: Labels) -> ClassificationScores:
    """Precision, recall, accuracy and AUROC of log ratios.

    A picture is called real when its probability is at least 0.5, that is its log ratio at least 0: a tie
    counts as real.

    Args:
        log_ratio: (N,) log d / (1 - d), i.e. logits, finite.
        labels: (N,) integers, 1 real and 0 fake, both present.

    Returns:
        The scores, pooled over all pictures.

    Raises:
        InputError: lengths differ, a log ratio is not finite, a label is neither 0 nor 1, or a class is
            absent.

    Source: Hanley & McNeil 1982 (AUROC as the share of pairs in the right order).

    Deviation: the study averaged precision and recall over batches; pooling does not depend on their size.
    """
    log_ratio, labels = _checked(log_ratio, labels)
    if not 0 < labels.sum() < len(labels):
        raise InputError(
            "real and fake pictures",
            f"{labels.sum()} real of {len(labels)}",
            "test on a split that holds both classes",
        )
    is_real, called_real = labels == 1, log_ratio >= 0
    right = np.sum(is_real & called_real)
    distinct, rank = np.unique(log_ratio, return_inverse=True)
    real, fake = (np.bincount(rank[kind], minlength=len(distinct)) for kind in (is_real, ~is_real))
    below = np.cumsum(fake) - fake
    return ClassificationScores(
        precision=float(right / max(called_real.sum(), 1)),
        recall=float(right / is_real.sum()),
        accuracy=float(np.mean(is_real == called_real)),
        auroc=float(np.sum(real * (below + fake / 2)) / (real.sum() * fake.sum())),
    )


def calibration_bins(log_ratio: Floats, labels: Labels, time: Floats, bins: int = 10) -> list[CalibrationBin]:
    """Expected against observed share of real pictures, for every VP time and bin of probability.

    Args:
        log_ratio: (N,) logits, finite.
        labels: (N,) integers, 1 real and 0 fake.
        time: (N,) VP times, each of a few values of a grid.
        bins: number of equally wide bins of [0, 1].

    Returns:
        One entry for every bin that holds pictures, by ascending time, then probability.

    Raises:
        InputError: lengths differ, a value is not finite, or a label is neither 0 nor 1.

    Source: Guo et al. 2017, Section 2 (reliability diagram), with the probability of the positive class.
    """
    log_ratio, labels = _checked(log_ratio, labels, time)
    probability = torch.sigmoid(torch.from_numpy(log_ratio)).numpy()
    edges = np.linspace(0, 1, bins + 1)
    bin_index = np.minimum(np.searchsorted(edges, probability, side="right") - 1, bins - 1)
    entries = []
    for moment in np.unique(time):
        for index in range(bins):
            inside = (time == moment) & (bin_index == index)
            if inside.any():
                entries.append(
                    CalibrationBin(
                        time=float(moment),
                        bin_low=float(edges[index]),
                        bin_high=float(edges[index + 1]),
                        mean_probability=float(probability[inside].mean()),
                        fraction_real=float(labels[inside].mean()),
                        count=int(inside.sum()),
                    )
                )
    return entries


def expected_calibration_error(entries: list[CalibrationBin]) -> dict[float, float]:
    """The mean distance between expectation and observation, weighted by pictures, for every VP time.

    Args:
        entries: what `calibration_bins` returns.

    Returns:
        Error in [0, 1] by VP time, ascending.

    Source: Guo et al. 2017, Eq. 3.
    """
    errors = {}
    for moment in sorted({entry.time for entry in entries}):
        here = [entry for entry in entries if entry.time == moment]
        gap = sum(entry.count * abs(entry.mean_probability - entry.fraction_real) for entry in here)
        errors[moment] = gap / sum(entry.count for entry in here)
    return errors


def cross_entropy_by_time(log_ratio: Floats, labels: Labels, time: Floats) -> dict[float, float]:
    """The mean binary cross entropy for every VP time, in nats; log 2 is what guessing achieves.

    Args:
        log_ratio: (N,) logits, finite.
        labels: (N,) integers, 1 real and 0 fake.
        time: (N,) VP times, each of a few values of a grid.

    Returns:
        Cross entropy by VP time, ascending.

    Raises:
        InputError: lengths differ, a value is not finite, or a label is neither 0 nor 1.
    """
    log_ratio, labels = _checked(log_ratio, labels, time)
    # -log of the probability given to the true class, without overflow: log(1 + exp z) - y z.
    loss = np.logaddexp(0, log_ratio) - labels * log_ratio
    return {float(moment): float(loss[time == moment].mean()) for moment in np.unique(time)}


def _checked(
    log_ratio: Floats, labels: Labels, time: Floats | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    shapes = [values.shape for values in (log_ratio, labels, time) if values is not None]
    if len(log_ratio) == 0 or any(shape != (len(log_ratio),) for shape in shapes):
        raise InputError(
            "log ratios, labels and times of one length, at least 1",
            f"shapes {', '.join(map(str, shapes))}",
            "rebuild the stage `discriminator`",
        )
    doubles = np.asarray(log_ratio, dtype=np.float64)
    require_finite_rows(doubles, "log ratios")
    if time is not None:
        require_finite_rows(np.asarray(time, dtype=np.float64), "times")
    if not np.isin(labels, (0, 1)).all():
        raise InputError(
            "labels 0 (fake) and 1 (real)",
            f"labels {np.unique(labels)[:5]}",
            "rebuild the stage `discriminator`",
        )
    return doubles, np.asarray(labels, dtype=np.int64)
