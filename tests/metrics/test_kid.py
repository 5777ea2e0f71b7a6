"""The kernel distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from discriminator_guidance.metrics import distances
from discriminator_guidance.metrics.distances import KernelSet, kid_influence
from tests.metrics.sets import correlated


def unbiased_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, Eq. 4, term by term."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    within = sum((kernel(z, z).sum() - np.trace(kernel(z, z))) / (len(z) * (len(z) - 1)) for z in (x, y))
    return float(within - 2 * kernel(x, y).mean())


def test_it_is_that_of_torchmetrics_on_one_subset_of_all_images() -> None:
    generated, real = correlated(1, 60, 6, 1.4).astype(np.float32), correlated(2, 60, 6)
    metric = KernelInceptionDistance(nn.Identity(), subsets=1, subset_size=60)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated).double(), real=False)
    expected, _ = metric.compute()
    assert kid_influence(KernelSet.of(generated), KernelSet.of(real))[0] == pytest.approx(float(expected), rel=1e-9)


def test_influence_is_the_jackknife_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = correlated(1, 600, 6, 1.4), correlated(2, 700, 6)
    whole = kid_influence(KernelSet.of(generated), KernelSet.of(real))
    monkeypatch.setattr(distances, "BLOCK", 7 * 700)
    distance, influence = kid_influence(KernelSet.of(generated), KernelSet.of(real))
    assert distance == pytest.approx(whole[0], rel=1e-9)
    np.testing.assert_allclose(influence, whole[1], atol=1e-9)
    assert distance == pytest.approx(unbiased_mmd2(generated, real), rel=1e-9)
    assert influence.shape == (600,)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    for row in (0, 300, 599):
        without = unbiased_mmd2(np.delete(generated, row, axis=0), real)
        assert influence[row] == pytest.approx(599 * (distance - without), abs=0.01 * influence.std())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_distance() -> None:
    generated, real = correlated(1, 600, 6, 1.4), correlated(2, 700, 6)
    expected = kid_influence(KernelSet.of(generated), KernelSet.of(real))
    distance, influence = kid_influence(KernelSet.of(generated, "cuda"), KernelSet.of(real, "cuda"))
    assert distance == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(influence, expected[1], atol=1e-9)
