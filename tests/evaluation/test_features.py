"""Feature extraction and the checks on feature sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import (
    comparable_features,
    extract_features,
    require_finite_rows,
)


def pictures(count: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 5, channels), dtype=np.uint8)


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def test_pixels_are_scaled_to_plus_minus_one_and_channels_come_first() -> None:
    images = pictures()
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    features = extract_features(flat, images, batch_size=100, device="cpu")
    expected = images.astype(np.float64).transpose(0, 3, 1, 2).reshape(7, -1) / 127.5 - 1
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert features[0].min() == -1
    assert features[0].max() == 1


@pytest.mark.parametrize(("precision", "kept"), [(torch.float32, np.float32), (torch.float64, np.float64)])
def test_features_keep_the_precision_of_the_network_and_carry_no_graph(precision: torch.dtype, kept: type) -> None:
    layer = torch.nn.Linear(60, 3, dtype=precision)
    features = extract_features(lambda x: layer(x.flatten(1).to(precision)), pictures(), batch_size=4, device="cpu")
    assert features.dtype == kept
    assert features.shape == (7, 3)
    assert layer.weight.grad is None


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_batch_size_changes_nothing_but_the_calls(batch_size: int) -> None:
    counts: list[int] = []
    features = extract_features(flat, pictures(), batch_size, "cpu", on_batch=counts.append)
    np.testing.assert_array_equal(features, extract_features(flat, pictures(), 2, "cpu"))
    assert sum(counts) == 7
    assert len(counts) == -(-7 // batch_size)


@pytest.mark.parametrize(
    "images", [pictures().astype(np.float32), pictures()[0], pictures()[:0]], ids=["float", "3-d", "empty"]
)
def test_wrong_pictures_are_refused(images: np.ndarray) -> None:
    with pytest.raises(InputError) as caught:
        extract_features(flat, images, 2, "cpu")
    assert str(caught.value) == (
        f"expected at least one picture, uint8 of shape (N, H, W, C); got {images.dtype} of shape {images.shape}; "
        "rebuild the stage that wrote the pictures"
    )


def test_a_feature_that_is_not_finite_is_traced_to_its_picture() -> None:
    images = pictures()
    images[5] = 255

    def breaks_on_white(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) / (1 - x.flatten(1).mean(dim=1, keepdim=True))

    with pytest.raises(InputError, match=r"finite features; got NaN or infinity in row 5 \(1 such rows of 7\)"):
        extract_features(breaks_on_white, images, 2, "cpu")


def test_the_first_damaged_row_is_named() -> None:
    values = np.zeros((6, 2))
    values[2, 1], values[4, 0] = np.inf, np.nan
    with pytest.raises(InputError) as caught:
        require_finite_rows(values, "features")
    assert str(caught.value) == (
        "expected finite features; got NaN or infinity in row 2 (2 such rows of 6); "
        "look at sample 2: the picture or the network that produced it is damaged"
    )


def test_sets_fit_for_comparison_come_back_as_doubles() -> None:
    generated, real = comparable_features(np.ones((2, 3), np.float32), np.zeros((4, 3), np.float32))
    assert generated.dtype == real.dtype == np.float64
    np.testing.assert_array_equal(generated, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("generated", "real", "message"),
    [
        (
            np.ones((1, 3)),
            np.ones((4, 3)),
            "expected generated features of shape (N, d) with N at least 2; got shape (1, 3); "
            "a mean and a covariance need two samples: ask for more images",
        ),
        (
            np.ones((4, 3)),
            np.ones(4),
            "expected real features of shape (N, d) with N at least 2; got shape (4,); "
            "a mean and a covariance need two samples: ask for more images",
        ),
        (
            np.ones((4, 3)),
            np.ones((4, 2)),
            "expected generated and real features of one width; got widths 3 and 2; "
            "extract both sets with the same network",
        ),
        (
            np.ones((4, 3)),
            np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]]),
            "expected finite real features; got NaN or infinity in row 1 (1 such rows of 2); "
            "look at sample 1: the picture or the network that produced it is damaged",
        ),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(generated: np.ndarray, real: np.ndarray, message: str) -> None:
    with pytest.raises(InputError) as caught:
        comparable_features(generated, real)
    assert str(caught.value) == message
