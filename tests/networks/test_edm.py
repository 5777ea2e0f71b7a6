"""EDM score networks: size of the released one, preconditioning, precision, batch independence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from discriminator_guidance.networks.edm import EDMPrecond, SongUNet
from tests.networks.conftest import shuffled


def test_parameters_of_the_released_vp_network() -> None:
    with torch.device("meta"):
        network = EDMPrecond(img_resolution=32, img_channels=3, channel_mult=[2, 2, 2], augment_dim=9)
    assert sum(parameter.numel() for parameter in network.parameters()) == 55_733_891


@pytest.mark.parametrize(("encoder_type", "taps"), [("standard", [1, 1]), ("residual", [1, 3, 3, 1])])
def test_every_parameter_takes_part(encoder_type: str, taps: list[int]) -> None:
    kinds = {"encoder_type": encoder_type, "resample_filter": taps}
    network = shuffled(SongUNet(8, 2, 3, model_channels=8, channel_mult=[1, 2], num_blocks=1, dropout=0.0, **kinds))
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
