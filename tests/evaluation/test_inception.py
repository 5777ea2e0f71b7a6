"""Inception's features against torch-fidelity's own extractor, on random weights in the layout of the real file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation import inception as module
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.inception import INCEPTION_FEATURES, InceptionFeatures
from tests.inception_weights import random_inception

Extractor = Callable[[torch.Tensor], tuple[torch.Tensor]]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_inception()


@pytest.fixture(scope="module")
def oracle(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    path: Path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(weights, path)
    return fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))


@pytest.fixture(scope="module")
def inception(weights: dict[str, torch.Tensor]) -> InceptionFeatures:
    return InceptionFeatures(weights).eval()


def pictures() -> np.ndarray:
    """Noise, all grey levels in order, and a hard edge, on which ways of resizing differ."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    levels = (np.arange(32 * 32 * 3) % 256).astype(np.uint8).reshape(32, 32, 3)
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 15:] = 255
    return np.stack([noise, levels, edge])


def test_features_are_those_of_torch_fidelity_on_the_same_bytes(
    inception: InceptionFeatures, oracle: Extractor
) -> None:
    images = pictures()
    features = extract_features(inception.features, images, 2, "cpu")
    (expected,) = oracle(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert features.dtype == np.float32
    assert features.shape == (3, INCEPTION_FEATURES)
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-5, atol=1e-6)
    spread = np.abs(features[0] - features[2]).max()
    assert spread > 1e-2, "pictures must differ by more than the tolerance"


def test_grey_pictures_are_repeated(inception: InceptionFeatures) -> None:
    grey = torch.linspace(-1, 1, 16 * 16).reshape(1, 1, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(inception.features(grey), inception.features(grey.expand(-1, 3, -1, -1)))


def test_other_weights_are_refused(weights: dict[str, torch.Tensor]) -> None:
    lacking = {name: tensor for name, tensor in weights.items() if name != "Mixed_7c.branch1x1.conv.weight"}
    with pytest.raises(InputError, match=r"weights of torch-fidelity's Inception; got .*; get the file again$"):
        InceptionFeatures(lacking)


def test_random_weights_keep_the_scale_of_features() -> None:
    torch.manual_seed(0)
    features = extract_features(module.random_inception().eval().features, pictures()[:2], 2, "cpu")
    assert features.shape == (2, INCEPTION_FEATURES)
    assert 0.01 < features.std() < 100
