"""EDM score networks: size of the released one, preconditioning, precision, batch independence."""

from __future__ import annotations

import torch
from torch import Tensor

from discriminator_guidance.networks.edm import EDMPrecond


def test_parameters_of_the_released_vp_network() -> None:
    with torch.device("meta"):
        network = EDMPrecond(img_resolution=32, img_channels=3, channel_mult=[2, 2, 2], augment_dim=9)
    assert sum(parameter.numel() for parameter in network.parameters()) == 55_733_891


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
