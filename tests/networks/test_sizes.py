"""Networks: size of the released ones, labels that do not belong, preconditioning and times in bfloat16."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from discriminator_guidance.networks.adm import CHANNEL_MULT, EncoderUNet, NoisyImageCNN, build_head
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.sampling.sampler import sample
from tests.checkpoints import lookalike


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (partial(EncoderUNet, 32, 3, 128, 1000, 4, [1, 2, 4], CHANNEL_MULT[32]), 47_771_112),
        (partial(EncoderUNet, 8, 512, 128, 1, 2, [1], CHANNEL_MULT[8]), 2_883_841),
        (partial(EDMPrecond, 32, 3, channel_mult=[2, 2, 2], augment_dim=9), 55_733_891),
    ],
    ids=["classifier", "head", "EDM"],
)
def test_parameters_of_the_released_networks(build: Callable[[], nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == parameters


def test_missing_and_needless_labels_are_refused() -> None:
    x, tau = torch.randn(6, 48, 4, 4), torch.linspace(1e-5, 1.0, 6)
    for conditional, labels in ((True, None), (False, torch.arange(6))):
        head = build_head((48, 4, 4), conditional, model_channels=48, num_res_blocks=1, num_head_channels=24)
        with pytest.raises(ValueError, match="labels"):
            head(x, tau, labels)
    denoiser, x, sigma = lookalike.network(lookalike.NCSNPP), torch.randn(2, 3, 8, 8), torch.ones(2)
    for wrong in (torch.tensor([0, 10]), torch.eye(5)[:2], torch.eye(10)[:3]):  # of ten classes, and two images
        with pytest.raises(ValueError, match=r"give 0 to 9|rows of 10 numbers"):
            denoiser(x, sigma, wrong)
    with pytest.warns(UserWarning, match="knows classes, and none are given"):
        sample(denoiser, x.shape, steps=2)


def test_bfloat16_keeps_the_preconditioning() -> None:
    torch.manual_seed(0)
    denoiser, x, sigma = lookalike.network(lookalike.DDPMPP), torch.randn(6, 3, 8, 8), torch.tensor(0.002)
    with torch.no_grad():
        full = denoiser(x, sigma)
        with torch.autocast("cpu", torch.bfloat16):
            fast = denoiser(x, sigma)
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, full)
    # At sigma 0.002, D is x up to 0.002 F: rounding x itself to bfloat16 would be off by up to 0.01.
    torch.testing.assert_close(fast, full, rtol=0, atol=2e-4)


def test_networks_of_bfloat16_know_the_time_as_exactly_as_others() -> None:
    torch.manual_seed(0)
    small, x, times = NoisyImageCNN((3, 8, 8), 33, gain=1.68), torch.randn(64, 3, 8, 8), torch.linspace(0.6, 0.99, 64)
    for network, levels in ((small, times), (lookalike.network(lookalike.DDPMPP), 80 * times)):
        half = copy.deepcopy(network).bfloat16()
        with torch.no_grad():
            fast, exact = half(x, levels).float(), copy.deepcopy(half).float()(x, levels)
        assert (fast - exact).norm() < 0.02 * exact.norm()
