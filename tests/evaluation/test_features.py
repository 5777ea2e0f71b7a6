"""Feature extraction and the check on feature sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import extract_features

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


@pytest.mark.parametrize("batch_size", [3, 50])
def test_pixels_are_scaled_to_plus_minus_one_channels_first_in_batches(batch_size: int) -> None:
    counts: list[int] = []
    features = extract_features(flat, IMAGES, batch_size, "cpu", counts.append)
    expected = IMAGES.astype(np.float64).transpose(0, 3, 1, 2).reshape(7, -1) / 127.5 - 1
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert features.dtype == np.float32
    assert (sum(counts), len(counts)) == (7, -(-7 // batch_size))


def test_a_feature_that_is_not_finite_names_its_image() -> None:
    images = np.where(np.arange(7)[:, None, None, None] == 5, np.uint8(255), IMAGES)
    with pytest.raises(InputError, match="finite features; got NaN or infinity in 1 of 7 rows, first in row 5"):
        extract_features(lambda x: flat(x) / (1 - flat(x).mean(dim=1, keepdim=True)), images, 2, "cpu")
