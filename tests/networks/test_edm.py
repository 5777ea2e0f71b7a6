"""EDM score networks: size and names of the released ones, preconditioning, precision, batch independence."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from discriminator_guidance.networks.blocks import Resample
from discriminator_guidance.networks.edm import EDMPrecond, SongUNet
from tests.networks.conftest import shuffled

CIFAR10 = {"img_resolution": 32, "img_channels": 3, "channel_mult": [2, 2, 2], "augment_dim": 9}
NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
BLOCK = r"(norm0|conv0|affine|norm1|conv1|skip|norm2|qkv|proj)"
NAME = re.compile(
    r"model\.("
    r"map_noise\.freqs|map_(augment|label|layer0|layer1)\.(weight|bias)"
    rf"|enc\.\d+x\d+_(conv|aux_residual|(down|block\d+)\.{BLOCK})\.(weight|bias|resample_filter)"
    rf"|dec\.\d+x\d+_(aux_norm|aux_conv|(in0|in1|up|block\d+)\.{BLOCK})\.(weight|bias|resample_filter))"
)


def test_parameters_of_the_released_vp_network() -> None:
    with torch.device("meta"):
        network = EDMPrecond(**CIFAR10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 55_733_891


@pytest.mark.parametrize("options", [{}, NCSNPP, {"label_dim": 10}], ids=["ddpmpp", "ncsnpp", "conditional"])
def test_original_parameter_names(options: dict[str, object]) -> None:
    with torch.device("meta"):
        names = list(EDMPrecond(**CIFAR10, **options).state_dict())
    assert [name for name in names if not NAME.fullmatch(name)] == []
    expected = {
        "model.map_augment.weight",
        "model.enc.32x32_conv.weight",
        "model.enc.16x16_down.conv0.resample_filter",
        "model.enc.16x16_down.skip.resample_filter",
        "model.enc.16x16_block3.qkv.weight",
        "model.dec.8x8_in0.proj.bias",
        "model.dec.16x16_up.skip.weight",
        "model.dec.16x16_block4.norm2.weight",
        "model.dec.32x32_aux_conv.bias",
    }
    if "encoder_type" in options:
        expected |= {"model.map_noise.freqs", "model.enc.8x8_aux_residual.resample_filter"}
    if "label_dim" in options:
        expected |= {"model.map_label.weight", "model.map_label.bias"}
    assert expected <= set(names)


@pytest.mark.parametrize("encoder_type", ["standard", "residual", "skip"])
@pytest.mark.parametrize("decoder_type", ["standard", "skip"])
@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1]])
def test_every_parameter_takes_part(encoder_type: str, decoder_type: str, taps: list[int]) -> None:
    network = shuffled(
        SongUNet(
            8,
            2,
            3,
            model_channels=8,
            channel_mult=[1, 2],
            num_blocks=1,
            encoder_type=encoder_type,
            decoder_type=decoder_type,
            resample_filter=taps,
            dropout=0.0,
        )
    )
    estimate = network(torch.randn(2, 2, 8, 8), torch.tensor([0.1, -0.3]))
    assert estimate.shape == (2, 3, 8, 8)
    estimate.square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


def test_bfloat16_keeps_the_preconditioning(denoiser: EDMPrecond, x: Tensor) -> None:
    sigma = torch.tensor(0.002)
    with torch.no_grad():
        full = denoiser(x, sigma)
        with torch.autocast("cpu", torch.bfloat16):
            fast = denoiser(x, sigma)
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, full)
    # At sigma 0.002, D is x up to 0.002 F: rounding x itself to bfloat16 would be off by up to 0.01.
    torch.testing.assert_close(fast, full, rtol=0, atol=2e-4)


def test_a_image_does_not_depend_on_its_batch(denoiser: EDMPrecond, x: Tensor) -> None:
    sigma = torch.linspace(0.1, 3.0, len(x))
    with torch.no_grad():
        together = denoiser(x, sigma)
        alone = torch.cat([denoiser(x[i : i + 1], sigma[i]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_averaging_equals_its_convolution() -> None:
    # Two taps take a shortcut; the same filter written with four taps takes the convolution.
    x = torch.randn(2, 3, 8, 8)
    for up in (True, False):
        torch.testing.assert_close(Resample((1, 1), up)(x), Resample((0, 1, 1, 0), up)(x))


def test_unusable_options_are_refused() -> None:
    with pytest.raises(ValueError, match="embedding_type"):
        EDMPrecond(16, 1, embedding_type="learnt")
    with pytest.raises(ValueError, match="symmetric"):
        EDMPrecond(16, 1, model_channels=16, resample_filter=[1, 2, 1])
