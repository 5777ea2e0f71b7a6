"""Feature extraction and the check on feature sets."""

from __future__ import annotations

import numpy as np
import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import extract_features

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)


def test_a_feature_that_is_not_finite_names_its_image() -> None:
    images = np.where(np.arange(7)[:, None, None, None] == 5, np.uint8(255), IMAGES)
    with pytest.raises(InputError, match="finite features; got NaN or infinity in 1 of 7 rows, first in row 5"):
        extract_features(lambda x: x.flatten(1) / (1 - x.mean(dim=(1, 2, 3))[:, None]), images, 2, "cpu")
