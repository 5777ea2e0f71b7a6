"""ADM encoder: size of the released networks, labels that do not belong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from discriminator_guidance.networks.adm import CHANNEL_MULT, EncoderUNet, build_head


@pytest.mark.parametrize(
    ("arguments", "parameters", "feature_shape"),
    [
        ((32, 3, 128, 1000, 4, [1, 2, 4]), 47_771_112, (512, 8, 8)),
        ((8, 512, 128, 1, 2, [1]), 2_883_841, (128, 8, 8)),
    ],
    ids=["classifier", "head"],
)
def test_parameters_of_the_released_networks(
    arguments: tuple[Any, ...], parameters: int, feature_shape: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        network = EncoderUNet(*arguments, CHANNEL_MULT[arguments[0]])
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.feature_shape == feature_shape


def test_missing_and_needless_labels_are_refused(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    head = build_head((48, 4, 4), True, model_channels=48, num_res_blocks=1, num_head_channels=24)
    with pytest.raises(ValueError, match="labels"):
        head(torch.randn(6, 48, 4, 4), tau)
    with pytest.raises(ValueError, match="labels"):
        extractor(x, tau, torch.arange(6))
