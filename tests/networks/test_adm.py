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
from tests.networks.conftest import shuffled

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
EXTRACTOR = {
    "image_size": 16,
    "in_channels": 1,
    "classes": 10,
    "model_channels": 24,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [4],
    "num_head_channels": 24,
}


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


def test_attention_shapes_of_checkpoints() -> None:
    with torch.device("meta"):
        state = create_classifier(**RELEASED_HEAD).state_dict()
    assert state["out.2.positional_embedding"].shape == (128, 65)
    assert state["out.2.c_proj.weight"].shape == (1, 128, 1)
    assert state["input_blocks.1.1.qkv.weight"].shape == (384, 128, 1)


@pytest.mark.parametrize(("sizes", "blocks"), [([4], [5]), ([16, 8], [1, 3]), ([], [])])
def test_extractor_attends_at_picture_sizes(sizes: list[int], blocks: list[int]) -> None:
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


def test_depends_on_time_and_picture(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    logits = extractor(x, tau)
    assert not torch.allclose(logits, extractor(x, tau.flip(0)), atol=1e-3)
    assert not torch.allclose(logits, extractor(x.flip(0), tau), atol=1e-3)
    assert torch.equal(extractor(x, torch.tensor(0.5)), extractor(x, torch.full((6,), 0.5)))


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


def test_bfloat16_is_finite_and_close(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    with torch.no_grad():
        full = extractor(x, tau)
        with torch.autocast("cpu", torch.bfloat16):
            fast = extractor(x, tau)
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, full)
    assert (fast - full).square().mean().sqrt() < 0.05 * full.square().mean().sqrt()


def test_a_picture_does_not_depend_on_its_batch(extractor: EncoderUNet, x: Tensor, tau: Tensor) -> None:
    with torch.no_grad():
        alone = torch.cat([extractor(x[i : i + 1], tau[i]) for i in range(len(x))])
        torch.testing.assert_close(extractor(x, tau), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"attention_resolutions": [5]}, "attention_resolutions"),
        ({"num_head_channels": 7}, "num_head_channels"),
        ({"image_size": 18}, "image_size"),
    ],
)
def test_settings_that_fit_no_network(change: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        build_extractor(**{**EXTRACTOR, **change})


@pytest.mark.parametrize("option", ["classifier_resblock_updown", "classifier_use_scale_shift_norm"])
def test_options_of_no_released_network_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option.removeprefix("classifier_")):
        create_classifier(**RELEASED_HEAD, **{option: False})


@pytest.mark.parametrize("size", [4, 24])  # few positions, and more than the fused kernel starts from
def test_attention_is_the_same_with_channels_last(size: int) -> None:
    block = shuffled(AttentionBlock(16, 8)).double()
    x = torch.randn(2, 16, size, size, dtype=torch.float64)
    last = x.to(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    torch.testing.assert_close(block(last), block(x))
