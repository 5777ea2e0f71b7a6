"""Small networks whose parameters, zero-initialised ones included, are random."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from discriminator_guidance.networks.adm import EncoderUNet, build_extractor
from discriminator_guidance.networks.edm import EDMPrecond

SIZE, CHANNELS = 16, 1


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def shuffled(network: nn.Module) -> nn.Module:
    """Random parameters of the size that keeps activations moderate."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture
def denoiser() -> EDMPrecond:
    widths = {"model_channels": 16, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [4]}
    network = EDMPrecond(SIZE, CHANNELS, **widths, dropout=0.0)
    return shuffled(network).eval()


@pytest.fixture
def extractor() -> EncoderUNet:
    widths = {"model_channels": 24, "channel_mult": [1, 2, 2], "num_head_channels": 24}
    network = build_extractor(SIZE, CHANNELS, classes=10, num_res_blocks=1, attention_resolutions=[4], **widths)
    return shuffled(network).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(6, CHANNELS, SIZE, SIZE)


@pytest.fixture
def tau() -> torch.Tensor:
    return torch.linspace(1e-5, 1.0, 6)
