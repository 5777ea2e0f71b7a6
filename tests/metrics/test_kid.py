"""The kernel distance."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from discriminator_guidance.errors import InputError
from discriminator_guidance.metrics.distances import kid, kid_influence
from tests.metrics.sets import correlated


def unbiased_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, Eq. 4, term by term."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    within = sum((kernel(z, z).sum() - np.trace(kernel(z, z))) / (len(z) * (len(z) - 1)) for z in (x, y))
    return float(within - 2 * kernel(x, y).mean())


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize(("seed", "size"), [(0, 20), (3, 2), (2**40, 40)])
def test_subsets_are_those_of_the_seed_and_values_double(seed: int, size: int, precision: type) -> None:
    generated, real = correlated(1, 40, 6, 1.4).astype(precision), correlated(2, 50, 6).astype(precision)
    draw, values = torch.Generator().manual_seed(seed), []
    for _ in range(7):  # the real subset is drawn first
        one, other = (x[torch.randperm(len(x), generator=draw)[:size].numpy()] for x in (real, generated))
        values.append(unbiased_mmd2(one.astype(np.float64), other.astype(np.float64)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(1)
        found = kid(generated, real, 7, size, seed)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(1)), "the global state has moved"
    assert found == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)


@pytest.mark.parametrize(("subsets", "size"), [(5, 31), (5, 1), (0, 10)])
def test_impossible_subsets_are_refused(subsets: int, size: int) -> None:
    with pytest.raises(InputError, match=f"KID subset of 2 to 30 images; got {subsets} subsets of {size}"):
        kid(correlated(1, 30, 4), correlated(2, 40, 4), subsets, size, seed=0)


def test_distance_of_all_images_and_the_jackknife() -> None:
    generated, real = correlated(1, 600, 6, 1.4), correlated(2, 700, 6)  # more rows than a block
    distance, influence = kid_influence(generated, real)
    assert distance == pytest.approx(unbiased_mmd2(generated, real), rel=1e-9)
    mean, deviation = kid(generated, real, 100, 200, seed=0)
    assert distance == pytest.approx(mean, abs=4 * deviation / 100**0.5)
    assert influence.shape == (600,)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    for row in (0, 300, 599):
        without = unbiased_mmd2(np.delete(generated, row, axis=0), real)
        assert influence[row] == pytest.approx(599 * (distance - without), abs=0.01 * influence.std())
