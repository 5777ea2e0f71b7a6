"""Fitted weights against Gaussian data, for which the exact correction is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from discriminator_guidance.core.errors import ConfigError, DivergenceError, InputError
from discriminator_guidance.core.noise import tau_from_sigma
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import heun as sample
from discriminator_guidance.sampling.weights import FittedWeights, delivered_weight, fit_weights

from .gaussians import SHAPE, Gaussian, log_ratio_of, no_noise, seeded_latents, settings

TRUE, WRONG = Gaussian(mean=0.3, std=0.4), Gaussian(mean=-0.1, std=0.6)
SIGMAS = torch.tensor([5.0, 1.0, 0.3, 0.1])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn((*shape, *SHAPE), generator=torch.Generator().manual_seed(seed))


IMAGES = TRUE.mean + TRUE.std * normal(6000, seed=0)


def members(*scales: float):
    """Members that return multiples of the exact log ratio."""
    return [lambda x_vp, tau, scale=scale: scale * log_ratio_of(TRUE, WRONG)(x_vp, tau) for scale in scales]


def fitted(member_logits, sigmas: Tensor = SIGMAS, **changes) -> Tensor:
    return fit_weights(WRONG.denoise, member_logits, IMAGES, sigmas, **changes).weights


def test_8_bit_images_are_scaled_in_arrays_and_tensors_alike():
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), dtype=np.uint8)
    forms = (images, torch.from_numpy(images).permute(0, 3, 1, 2))
    array, tensor = (fit_weights(WRONG.denoise, members(1.0), real).weights for real in forms)
    assert torch.equal(array, tensor)
    assert fit_weights(WRONG.denoise, members(1.0), images, sigmas=0.5).weights.shape == (1, 1)


@pytest.mark.parametrize("real", [torch.rand(9, 1, 4, 4), np.zeros((9, 4, 4, 1), np.float32)])
def test_images_in_other_units_are_refused(real) -> None:
    with pytest.raises(InputError, match="nor floats that go below 0"):
        fit_weights(lambda x, sigma: 0 * x, lambda x_vp, tau: x_vp.sum(dim=(1, 2, 3)), real)


def test_ridge_shrinks_relative_to_the_size_of_the_correction():
    for scale in (0.01, 100.0):
        plain, ridged = fitted(members(scale), ridge=0.0), fitted(members(scale), ridge=0.25)
        assert torch.allclose(ridged, plain / 1.25)


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((0.25,), (4.0,)),
        ((-1.0,), (0.0,)),
        ((1.0, 1.0), (0.5, 0.5)),
        ((1.0, -1.0), (1.0, 0.0)),
    ],
)
def test_weights_undo_scales_and_share_what_members_have_in_common(scales, expected):
    weights = fitted(members(*scales))
    assert weights.shape == (4, len(scales))
    # A Monte Carlo error remains, largest where the noise hides most of the image.
    assert torch.allclose(weights, torch.tensor(expected).double().expand(4, -1), atol=0.05 / max(map(abs, scales)))


def test_stacking_finds_the_parts_of_the_log_ratio():
    def parts(x_vp: Tensor, tau: Tensor) -> Tensor:
        # Each part is half of the log ratio's gradient plus and minus one that the other part cancels.
        exact, odd = log_ratio_of(TRUE, WRONG)(x_vp, tau), 5 * x_vp[:, 0].flatten(1).sum(1)
        return torch.stack([exact / 2 + odd, exact / 2 - odd])

    parts.members = 2
    assert torch.allclose(fitted(parts, SIGMAS[1:], ridge=0.0), torch.ones(3, 2).double(), atol=0.05)


def test_interpolation_is_linear_in_ln_sigma_and_constant_outside():
    weights_of = FittedWeights(torch.tensor([4.0, 1.0, 0.25]), torch.tensor([[0.0, 3.0], [1.0, 1.0], [0.5, 1.0]]))
    sigma = torch.tensor([80.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.002, 0.0], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.0, 0.5, 1.0, 0.75, 0.5, 0.5, 0.5], [3.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    assert torch.allclose(weights_of(tau_from_sigma(sigma)).float(), expected, atol=1e-6)
    assert torch.allclose(weights_of(tau_from_sigma(sigma[2])).float(), expected[:, 2:3], atol=1e-6)
    assert FittedWeights(torch.ones(1), torch.tensor([[0.5, 2.0]]))(sigma / 80).tolist() == [[0.5] * 8, [2.0] * 8]


def test_guidance_with_fitted_weights_corrects_a_discriminator_of_wrong_scale():
    def logits(x_vp: Tensor, tau: Tensor) -> Tensor:
        # Overconfident at low noise and timid at high noise, as no constant weight could correct.
        return (torch.exp(4 * (0.5 - tau)) * log_ratio_of(TRUE, WRONG)(x_vp, tau)).unsqueeze(0)

    sigmas = torch.logspace(math.log10(80), -2, 30)
    weights = {"fitted": FittedWeights(sigmas, fitted(logits, sigmas)), "constant": None}
    latents, chosen = seeded_latents(200), settings(w1=1.0, w2=1.0)
    exact = sample(TRUE.denoise, None, latents, no_noise, chosen)

    def error(name: str) -> float:
        guidance = DiscriminatorGuidance(logits, 1.0, "mean_logit", (0.0, 1.0), weights[name])
        return (sample(WRONG.denoise, guidance, latents, no_noise, chosen) - exact).abs().mean().item()

    assert error("fitted") < 0.02 < 0.1 < error("constant")


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(DivergenceError, match="NaN or infinity at sigma"):
        fit_weights(lambda x, sigma: torch.nan * x, members(1.0), IMAGES[:20])
    for wrong in ({"ridge": -1.0}, {"ridge": math.inf}, {"batch_size": 0}, {"sigmas": -SIGMAS}):
        with pytest.raises(ConfigError, match="give a ridge of at least 0, and the others above 0"):
            fitted(members(1.0), **wrong)
    assert fitted(members(1.0, 2.0, -1.0, -3.0), ridge=0.0).isfinite().all(), "multiples of one need no ridge"


def test_little_is_delivered_by_a_window_at_high_noise():
    assert delivered_weight(steps=18, std=0.25) == pytest.approx(1.0, abs=0.01)  # w1 = w2 = 1
    assert abs(delivered_weight((0.6, 1.0), steps=12, w1=2.0, w2=0.0)) < 0.3  # nearly all is undone
    assert delivered_weight((0.95, 1.0)) == 0.0  # no noise level is there
