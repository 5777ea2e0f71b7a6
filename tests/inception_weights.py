"""Random weights of torch-fidelity's Inception, full size, in the layout of the released file."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as fidelity


def random_inception() -> dict[str, torch.Tensor]:
    """All 566 tensors, with statistics of batches that are not those of an untrained network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda url, progress: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        state: dict[str, torch.Tensor] = fidelity.FeatureExtractorInceptionV3("random", ["2048"]).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):  # as large as keeps the variance through a rectifier
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return state
