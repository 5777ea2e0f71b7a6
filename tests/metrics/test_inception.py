"""Features: finite ones, and Inception's against torch-fidelity, on random weights in the real file's layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.metrics.features import InceptionFeatures, comparable, extract_features


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """All tensors, with statistics of batches that are not those of an untrained network."""
    torch.manual_seed(0)
    state = InceptionFeatures(None).network.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return state


def test_features_of_same_bytes_are_those_of_torch_fidelity(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    # Noise, all grey levels in order, and a hard edge, on which ways of resizing differ.
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images[1] = (np.arange(32 * 32 * 3) % 256).reshape(32, 32, 3)
    images[2], images[2, :, 15:] = 0, 255
    torch.save(weights, tmp_path / "weights.pth")
    oracle = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(tmp_path / "weights.pth"))
    inception = InceptionFeatures(weights)
    features = extract_features(inception.features, images, 2, "cpu")
    (expected,) = oracle(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert np.abs(features[0] - features[2]).max() > 0.01, "images must differ by more than the tolerance"
    grey = torch.linspace(-1, 1, 16 * 16).reshape(1, 1, 16, 16)
    torch.testing.assert_close(inception.features(grey), inception.features(grey.expand(-1, 3, -1, -1)))


def test_other_weights_are_refused(weights: dict[str, torch.Tensor]) -> None:
    lacking = {name: tensor for name, tensor in weights.items() if name != "Mixed_7c.branch1x1.conv.weight"}
    with pytest.raises(InputError, match=r"not those of torch-fidelity's Inception: .*branch1x1.*; get the file"):
        InceptionFeatures(lacking)


def test_a_feature_that_is_not_finite_names_its_image() -> None:
    images = np.random.default_rng(0).integers(0, 255, (7, 4, 5, 3), dtype=np.uint8)
    images[5] = 255
    with pytest.raises(InputError, match="NaN or infinity in 1 of 7 rows, first in row 5"):
        comparable(extract_features(lambda x: x.flatten(1) / (1 - x.mean(dim=(1, 2, 3))[:, None]), images, 2, "cpu"))
