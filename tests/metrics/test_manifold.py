"""Generative precision and recall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from discriminator_guidance.metrics.manifold import precision_recall


def normal(seed: int, count: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((count, 5))


def of_torch_fidelity(generated: np.ndarray, real: np.ndarray, neighborhood: int) -> tuple[float, float]:
    sets = [torch.from_numpy(features).double() for features in (generated, real)]
    options = {"prc_neighborhood": neighborhood, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    shares = prc_features_to_metric(*sets, **options)
    # It divides in float32; what it counted is exact.
    return round(shares["precision"] * len(generated)) / len(generated), round(shares["recall"] * len(real)) / len(real)


@pytest.mark.parametrize(("neighborhood", "precision", "block"), [(1, np.float64, 17), (3, np.float32, 1000)])
def test_shares_are_those_of_torch_fidelity_whatever_the_block(neighborhood: int, precision: type, block: int) -> None:
    generated, real = normal(1, 90, scale=0.9).astype(precision), normal(2, 70).astype(precision)
    shares = precision_recall(generated, real, neighborhood, block)
    assert tuple(share.mean for share in shares) == of_torch_fidelity(generated, real, neighborhood)


@pytest.mark.parametrize(("generated", "real", "neighborhood"), [(60, 50, 3), (40, 80, 1)])
def test_influence_is_what_leaving_an_image_out_takes_away(generated: int, real: int, neighborhood: int) -> None:
    x, y = normal(1, generated, scale=1.3), normal(2, real)
    rows = range(generated)
    without = np.array([of_torch_fidelity(np.delete(x, row, axis=0), y, neighborhood) for row in rows])
    expected = (generated - 1) * (without.mean(axis=0) - without)
    assert np.ptp(expected, axis=0).min() > 0
    shares = precision_recall(x, y, neighborhood, block=17)
    np.testing.assert_allclose(np.concatenate([share.influence for share in shares]).T, expected, atol=1e-10)


def test_intervals_of_shares_and_of_their_differences_stay_within_what_shares_can_be() -> None:
    x, y = normal(1, 60, scale=1.3), normal(2, 50)
    _, recall = precision_recall(x, y, 2)
    low, high = recall.interval()
    assert high == 1.0 < 2 * recall.mean - low, "the other half of the interval is longer than there is room"
    _, nothing = precision_recall(x + 100, y, 8)
    assert nothing.interval() == (0, 0)
    assert recall.minus(nothing).interval()[1] == 1.0
