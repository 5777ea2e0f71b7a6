"""ADM encoder: size of the released networks, labels, what gradients of members reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance.networks.adm import EncoderUNet, MemberLogits, build_head, create_classifier
from tests.networks.conftest import shuffled


@pytest.mark.parametrize(
    ("arguments", "parameters", "feature_shape"),
    [((32, 3, 1000, 128, 4), 47_771_112, (512, 8, 8)), ((8, 512, 1, 128, 2), 2_883_841, (128, 8, 8))],
    ids=["classifier", "head"],
)
def test_parameters_of_the_released_networks(
    arguments: tuple[int, ...], parameters: int, feature_shape: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        network = create_classifier(*arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.feature_shape == feature_shape


def test_every_parameter_takes_part(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    extractor(x, tau).square().sum().backward()
    assert [n for n, p in extractor.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_labels_one_hot_or_integer(extractor: EncoderUNet, tau: Tensor) -> None:
    head = shuffled(build_head((48, 4, 4), True, model_channels=48, num_res_blocks=1, num_head_channels=24)).eval()
    features, labels = torch.randn(6, 48, 4, 4), torch.arange(6)
    logit = head(features, tau, labels)
    assert torch.equal(logit, head(features, tau, one_hot(labels, 10).float()))
    assert not torch.allclose(logit, head(features, tau, labels + 1), atol=1e-3)
    with pytest.raises(ValueError, match="labels"):
        head(features, tau)
    with pytest.raises(ValueError, match="labels"):
        extractor(torch.randn(6, 1, 16, 16), tau, labels)


def test_member_gradients_reach_the_image_alone(
    extractor: EncoderUNet, heads: list[EncoderUNet], x: Tensor, tau: Tensor
) -> None:
    members = MemberLogits(extractor, heads)
    x.requires_grad_()
    members(x, tau).sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().amax(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in members.parameters())
    assert not any(module.training for module in members.modules())
