"""Score matching on Gaussian data, whose denoisers and log ratio are known, and through real networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from discriminator_guidance.core.noise import generator
from discriminator_guidance.networks.adm import build_extractor, build_head
from discriminator_guidance.training.pairs import Pairs, Split
from discriminator_guidance.training.score import edm_loss
from discriminator_guidance.training.score_matching import ScoreMatching
from tests.library.gaussians import SHAPE, Gaussian, log_ratio_of
from tests.standins import alive

from .test_discriminator import labelled_pairs, run

TRUE, WRONG = Gaussian(0.2, 0.2), Gaussian(-0.1, 0.3)
LOG_RATIO = log_ratio_of(TRUE, WRONG)
MATCHING = ScoreMatching(WRONG.denoise, lambda x_vp, t: x_vp, 0.5, -1.2, 1.2)


def gaussian_pairs(count: int) -> Pairs:
    noise = torch.randn((2 * count, *SHAPE), generator=torch.Generator().manual_seed(0))
    kind = [TRUE] * count + [WRONG] * count
    mean, std = (torch.tensor([getattr(law, name) for law in kind]).view(-1, 1, 1, 1) for name in ("mean", "std"))
    images = (127.5 * (1 + mean + std * noise)).round().clamp(0, 255).to(torch.uint8)
    rows = np.arange(2 * count)
    return Pairs(*images.split(count), torch.from_numpy(rows < count).float(), None, Split(rows, rows, rows))


class Scaled(nn.Module):
    """c times the exact log ratio, and an offset, which score matching cannot see."""

    def __init__(self):
        super().__init__()
        self.c, self.offset = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(0.3))

    def forward(self, x_vp, t):
        return self.c * LOG_RATIO(x_vp, t) + self.offset


def test_the_loss_is_smallest_at_the_exact_log_ratio_and_that_of_the_denoiser_at_a_constant():
    pairs = gaussian_pairs(20000)
    drawn = clean, noisy, sigma = MATCHING.draw(pairs, np.arange(20000), generator(0, "x", 0, 0), 1e-3)

    def loss(c: float) -> float:
        return MATCHING.loss(lambda x_vp, t: c * LOG_RATIO(x_vp, t), *drawn).item()

    below, exact, above = loss(0.0), loss(1.0), loss(2.0)  # the loss is quadratic in c
    assert (below - above) / (2 * (below - 2 * exact + above)) == pytest.approx(0, abs=0.05)  # distance from c = 1
    assert below == pytest.approx(edm_loss(WRONG.denoise(noisy, sigma), clean, sigma, 0.5).item(), rel=1e-5)
    assert exact == pytest.approx(edm_loss(TRUE.denoise(noisy, sigma), clean, sigma, 0.5).item(), rel=1e-3)


def test_noise_levels_are_lognormal_and_end_at_the_smallest_time():
    _, _, sigma = MATCHING.draw(gaussian_pairs(4000), np.arange(4000), generator(0, "x", 0, 0), 0.01)
    assert sigma.log().median().item() == pytest.approx(-1.2, abs=0.1)
    assert sigma.min().item() == pytest.approx(0.0446, abs=1e-3)
    assert (sigma > np.exp(1.2)).float().mean().item() == pytest.approx(0.0228, abs=0.01)  # two p_std above p_mean


@pytest.mark.parametrize("objective", ["score_matching", "both"])
def test_training_finds_the_exact_log_ratio(objective):
    head, _, history = run(
        pairs=gaussian_pairs(1000), head=Scaled(), features=MATCHING.features, matching=MATCHING,
        objective=objective, epochs=4, decay_fraction=0.5, learning_rate=0.03,
    )  # fmt: skip
    assert head["c"].item() == pytest.approx(1, abs=0.1)
    assert (head["offset"].item() == pytest.approx(0.3)) == (objective == "score_matching")
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_the_gradient_goes_through_a_frozen_extractor_and_attention():
    """Central differences of the loss in float64 along a random direction of the head's parameters."""
    torch.manual_seed(0)
    network = {"model_channels": 8, "num_res_blocks": 1, "num_head_channels": 8, "dropout": 0.0}
    extractor = alive(build_extractor(16, 1, 10, [8], channel_mult=[1, 2], **network)).double().requires_grad_(False)
    head = alive(build_head(extractor.feature_shape, **network)).double()
    matching = ScoreMatching(lambda x, sigma: 0.5 * x, extractor.features, 0.5, -1.2, 1.2)
    clean, sigma = torch.rand(2, 1, 16, 16), torch.tensor([0.2, 1.0])
    noisy = clean + sigma.view(-1, 1, 1, 1) * torch.randn_like(clean)
    parameters = [parameter for name, parameter in head.named_parameters() if not name.endswith("c_proj.bias")]

    def loss():
        return matching.loss(lambda frozen, t: head(frozen, t).view(-1), clean.double(), noisy.double(), sigma.double())

    gradients = torch.autograd.grad(loss(), parameters)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += step * direction
        values.append(loss().item())
    assert expected == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)
    assert abs(expected) > 1e-4


def test_a_conditional_denoiser_is_given_the_class_of_each_image():
    """Images show their classes, so that the denoiser knows the clean image and loses nothing."""

    def denoiser(x, sigma, classes):
        return (25 * classes / 127.5 - 1).view(-1, 1, 1, 1).expand_as(x)

    matching = ScoreMatching(denoiser, MATCHING.features, 0.5, -1.2, 1.2)
    drawn = matching.draw(labelled_pairs(), np.arange(400)[::-1].copy(), generator(0, "x", 0, 0), 1e-3)
    assert matching.loss(lambda x_vp, t, classes: 0 * x_vp.flatten(1).sum(1), *drawn).item() < 1e-9
