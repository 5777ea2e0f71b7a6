"""Generative precision and recall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.manifold import neighbour_radii, precision_recall


def normal(seed: int, count: int, width: int = 5, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((count, width))


def share_on_manifold(points: np.ndarray, manifold: np.ndarray, neighborhood: int) -> float:
    """Kynkaanniemi et al. 2019, Eq. 1, with every distance written out."""
    among = np.linalg.norm(manifold[:, None] - manifold[None], axis=2)
    radius = np.sort(among, axis=1)[:, neighborhood]
    across = np.linalg.norm(points[:, None] - manifold[None], axis=2)
    return float((across <= radius).any(axis=1).mean())


@pytest.mark.parametrize("neighborhood", [1, 3, 5])
def test_definition(neighborhood: int) -> None:
    generated, real = normal(1, 90, scale=0.9), normal(2, 70)
    precision, recall = precision_recall(generated, real, neighborhood)
    assert precision == pytest.approx(share_on_manifold(generated, real, neighborhood), abs=1e-6)
    assert recall == pytest.approx(share_on_manifold(real, generated, neighborhood), abs=1e-6)


def test_equal_sets_cover_each_other() -> None:
    assert precision_recall(normal(1, 50), normal(1, 50), 3) == (1.0, 1.0)


def test_distant_sets_do_not_meet() -> None:
    assert precision_recall(normal(1, 50) + 100, normal(2, 50), 3) == (0.0, 0.0)


def test_a_collapsed_generator_is_precise_and_forgets() -> None:
    # Copies of the middle of the data: this is also what fixes the order of the arguments.
    precision, recall = precision_recall(normal(1, 200, scale=0.05), normal(2, 200), 3)
    assert precision > 0.9
    assert recall < 0.1


@pytest.mark.parametrize(("neighborhood", "width"), [(1, 3), (3, 64), (5, 20)])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_torch_fidelity_agrees(neighborhood: int, width: int, precision: type) -> None:
    generated = normal(1, 400, width, scale=0.9).astype(precision)
    real = normal(2, 310, width).astype(precision)
    expected = prc_features_to_metric(
        torch.from_numpy(generated).double(),
        torch.from_numpy(real).double(),
        prc_neighborhood=neighborhood,
        prc_batch_size=90,
        save_cpu_ram=True,
        verbose=False,
    )
    ours = precision_recall(generated, real, neighborhood, 77)
    assert ours == pytest.approx((expected["precision"], expected["recall"]), abs=1e-6)


def test_known_radii_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = normal(1, 90, scale=0.9), normal(2, 70)
    expected, radii = precision_recall(generated, real, 3), neighbour_radii(real, 3)
    assert precision_recall(generated, real, 3, real_radii=radii) == expected
    # Radii of 0 leave nothing of the real manifold but its points, and the generated one as it was.
    assert precision_recall(generated, real, 3, real_radii=0 * radii) == (0.0, expected[1])


@pytest.mark.parametrize("batch_size", [1, 17, 1000])
def test_batches_bound_memory_only(batch_size: int) -> None:
    generated, real = normal(1, 60, scale=0.8), normal(2, 45)
    assert precision_recall(generated, real, 3, batch_size) == precision_recall(generated, real, 3, 60)


@pytest.mark.parametrize("neighborhood", [0, 20])
def test_a_neighborhood_larger_than_the_set_is_refused(neighborhood: int) -> None:
    message = (
        f"expected a neighborhood from 1 to 19, for a set of 20 pictures; got {neighborhood}; "
        "change the neighborhood, or sample more images"
    )
    for sets in [(normal(1, 20), normal(2, 30)), (normal(2, 30), normal(1, 20))]:
        with pytest.raises(InputError) as caught:
            precision_recall(*sets, neighborhood)
        assert str(caught.value) == message
    with pytest.raises(InputError) as caught:
        neighbour_radii(normal(1, 20), neighborhood)
    assert str(caught.value) == message


def test_damaged_features_are_refused() -> None:
    damaged = normal(1, 20)
    damaged[3] = np.inf
    with pytest.raises(InputError, match="row 3 "):
        precision_recall(damaged, normal(2, 20), 3)
