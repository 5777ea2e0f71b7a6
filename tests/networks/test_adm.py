"""ADM encoder: size and names of the released networks, attention, labels, precision, batch independence."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.adm import EncoderUNet, build_extractor, build_head, create_classifier
from discriminator_guidance.networks.adm_blocks import AttentionBlock
from tests.networks.conftest import EXTRACTOR, shuffled

RELEASED_CLASSIFIER = {
    "image_size": 32,
    "in_channels": 3,
    "out_channels": 1000,
    "classifier_width": 128,
    "classifier_depth": 4,
}
RELEASED_HEAD = {
    "image_size": 8,
    "in_channels": 512,
    "out_channels": 1,
    "classifier_width": 128,
    "classifier_depth": 2,
}
RESIDUAL = r"(in_layers\.[02]|emb_layers\.1|out_layers\.[03]|skip_connection)"
NAME = re.compile(
    r"time_embed\.[02]\.(weight|bias)|label_emb\.weight|input_blocks\.0\.0\.(weight|bias)"
    rf"|(input_blocks\.\d+\.0|middle_block\.[02])\.{RESIDUAL}\.(weight|bias)"
    r"|(input_blocks\.\d+\.1|middle_block\.1)\.(norm|qkv|proj_out)\.(weight|bias)"
    r"|out\.0\.(weight|bias)|out\.2\.(positional_embedding|(qkv_proj|c_proj)\.(weight|bias))"
)


@pytest.mark.parametrize(
    ("arguments", "parameters", "feature_shape"),
    [(RELEASED_CLASSIFIER, 47_771_112, (512, 8, 8)), (RELEASED_HEAD, 2_883_841, (128, 8, 8))],
    ids=["classifier", "head"],
)
def test_parameters_of_the_released_networks(
    arguments: dict[str, int], parameters: int, feature_shape: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        network = create_classifier(**arguments)
        unknown = [name for name in network.state_dict() if not NAME.fullmatch(name)]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.feature_shape == feature_shape
    assert unknown == []


def test_conditional_head_has_a_thousand_label_rows() -> None:
    with torch.device("meta"):
        state = create_classifier(**RELEASED_HEAD, condition=True).state_dict()
    assert state["label_emb.weight"].shape == (1000, 512)
    assert [name for name in state if not NAME.fullmatch(name)] == []


@pytest.mark.parametrize(("sizes", "blocks"), [([4], [5]), ([16, 8], [1, 3]), ([], [])])
def test_extractor_attends_at_image_sizes(sizes: list[int], blocks: list[int]) -> None:
    network = build_extractor(**{**EXTRACTOR, "attention_resolutions": sizes})
    attending = [
        index
        for index, layers in enumerate(network.input_blocks)
        if any(isinstance(layer, AttentionBlock) for layer in layers)
    ]
    assert attending == blocks
    assert network.feature_shape == (48, 4, 4)


def test_feature_shape_is_the_shape_of_the_features(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    assert extractor.features(x, tau).shape == (len(x), *extractor.feature_shape)
    assert extractor(x, tau).shape == (len(x), 10)


@pytest.mark.parametrize("feature_shape", [(96, 4, 4), (48, 2, 2), (64, 8, 8)])
def test_heads_fit_any_feature_map(feature_shape: tuple[int, int, int], tau: Tensor) -> None:
    head = build_head(feature_shape, model_channels=48, num_res_blocks=2, num_head_channels=24)
    assert head(torch.randn(6, *feature_shape), tau).shape == (6, 1)


def test_starts_independent_of_time(x: Tensor, tau: Tensor) -> None:
    # Residual branches, which alone see the time, start at 0.
    network = build_extractor(**EXTRACTOR)
    assert torch.equal(network(x, tau), network(x, torch.zeros(6)))


def test_every_parameter_takes_part(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    extractor(x, tau).square().sum().backward()
    assert [n for n, p in extractor.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_labels_one_hot_or_integer(extractor: EncoderUNet, tau: Tensor) -> None:
    head = shuffled(build_head((48, 4, 4), 48, 1, 24, condition=True)).eval()
    features, labels = torch.randn(6, 48, 4, 4), torch.arange(6)
    logit = head(features, tau, labels)
    assert torch.equal(logit, head(features, tau, one_hot(labels, 10).float()))
    assert not torch.allclose(logit, head(features, tau, labels + 1), atol=1e-3)
    with pytest.raises(ValueError, match="labels"):
        head(features, tau)
    with pytest.raises(ValueError, match="labels"):
        extractor(torch.randn(6, 1, 16, 16), tau, labels)


def test_a_image_does_not_depend_on_its_batch(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    with torch.no_grad():
        alone = torch.cat([extractor(x[i : i + 1], tau[i]) for i in range(len(x))])
        torch.testing.assert_close(extractor(x, tau), alone, rtol=0, atol=1e-5)


def test_attention_heads_must_divide_the_channels() -> None:
    with pytest.raises(ConfigError, match="num_head_channels"):
        build_extractor(**{**EXTRACTOR, "num_head_channels": 7})
