"""Rejection sampling against Gaussian data, for which the log ratio is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.seeds import generator, normal
from discriminator_guidance.diffusion.vp_time import tau_from_sigma
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.guidance.rejection import rejection_thresholds, sample_with_rejection
from discriminator_guidance.guidance.sampler import sample

from .gaussians import SHAPE, Gaussian, log_ratio_of, no_noise, seeded_latents, settings

TRUE, WRONG = Gaussian(mean=0.3, std=0.4), Gaussian(mean=-0.1, std=0.6)
STEPS = 12
PLAIN_NFE = 2 * STEPS - 1
CHOSEN = settings(steps=STEPS)


def streams(rows: slice):
    """The random draws of some samples, each a row of a large table."""

    def noise(draw: int, mask: Tensor) -> Tensor:
        return normal(0, "noise", 0, draw, (600, *SHAPE))[rows]

    def uniform(draw: int) -> Tensor:
        return torch.from_numpy(generator(0, "uniform", 0, draw).random(600))[rows]

    return noise, uniform


def levels(values: dict[int, float]) -> Tensor:
    """The thresholds of some levels; all others accept everything."""
    return torch.tensor([values.get(level, -math.inf) for level in range(STEPS)], dtype=torch.float64)


NEVER = levels({})


def constant(x_vp: Tensor, tau: Tensor) -> Tensor:
    return torch.zeros(len(x_vp))


def rejected(log_ratio, latents: Tensor, thresholds: Tensor, rounds: int = 500) -> tuple[Tensor, Tensor]:
    noise, uniform = streams(slice(len(latents)))
    return sample_with_rejection(WRONG.denoise, log_ratio, latents, noise, uniform, CHOSEN, thresholds, rounds)


def test_the_exact_log_ratio_moves_samples_towards_the_true_gaussian():
    latents, log_ratio = seeded_latents(600), log_ratio_of(TRUE, WRONG)
    plain = sample(WRONG.denoise, None, latents, no_noise, CHOSEN)
    target = sample(TRUE.denoise, None, latents, no_noise, CHOSEN)
    errors, evaluations = [], []
    for quantile in (0.5, 0.95):
        thresholds = rejection_thresholds(WRONG.denoise, log_ratio, latents, CHOSEN, 0.01, 1.0, quantile)
        drawn, nfe = rejected(log_ratio, latents, thresholds)
        errors.append([abs(drawn.mean() - target.mean()).item(), abs(drawn.std() - target.std()).item()])
        evaluations.append(nfe.double().mean().item())
    unguided = [abs(plain.mean() - target.mean()).item(), abs(plain.std() - target.std()).item()]
    # A stricter quantile costs more evaluations and comes nearer.
    assert PLAIN_NFE < evaluations[0] < evaluations[1]
    for before, *after in zip(unguided, *errors, strict=True):
        assert before > after[0] > after[1]


def test_without_information_nothing_is_rejected():
    latents = seeded_latents(20)
    thresholds = rejection_thresholds(WRONG.denoise, constant, latents, CHOSEN, 0.0, 1.0)
    drawn, nfe = rejected(constant, latents, thresholds)
    assert torch.equal(drawn, sample(WRONG.denoise, None, latents, no_noise, CHOSEN))
    assert nfe.tolist() == [PLAIN_NFE] * 20


def test_a_threshold_c_accepts_a_share_of_exp_minus_c():
    stepped = levels({level: math.log(4) for level in range(1, STEPS)})
    _, nfe = rejected(constant, seeded_latents(400), torch.stack([stepped, NEVER]))
    assert nfe.double().mean().item() == pytest.approx(4 * 2 * (STEPS - 1) + 1, rel=0.05)
    # Taken back from level 2 to level 1, half of the samples go back to level 0 and take one step more.
    _, nfe = rejected(constant, seeded_latents(400), torch.stack([levels({2: math.log(4)}), levels({1: math.log(2)})]))
    assert nfe.double().mean().item() == pytest.approx(PLAIN_NFE + 2 * 3 * 1.5, rel=0.05)


def test_after_the_last_round_all_is_accepted():
    _, nfe = rejected(constant, seeded_latents(5), torch.stack([levels({1: math.inf}), NEVER]), rounds=3)
    assert nfe.tolist() == [PLAIN_NFE + 2 * 3] * 5


@pytest.mark.parametrize(("own", "level"), [({}, 2), ({2: math.inf}, 1), ({1: math.inf, 2: math.inf}, 0)])
def test_rejected_samples_are_noised_back_to_the_level_where_they_are_accepted(own, level):
    # A denoiser that removes nothing: only the noise moves a sample. The third round rejects once, at level 3.
    noise, uniform = streams(slice(400))
    thresholds = torch.stack([levels({3: math.inf}), levels(own)])
    drawn, nfe = sample_with_rejection(
        lambda x, s: x, constant, torch.zeros((400, *SHAPE)), noise, uniform, CHOSEN, thresholds, rounds=3
    )
    sigmas = karras_sigmas(STEPS, 0.002, 80.0, 7.0)
    assert drawn.var().item() == pytest.approx((sigmas[level] ** 2 - sigmas[3] ** 2).item(), rel=0.05)
    assert nfe.tolist() == [PLAIN_NFE + 2 * (3 - level)] * 400


def test_thresholds_are_quantiles_inside_the_window_and_at_least_zero():
    tau = tau_from_sigma(karras_sigmas(STEPS, 0.002, 80.0, 7.0))

    def log_ratio(x_vp: Tensor, time: Tensor) -> Tensor:
        # Sample i has 0 up to level 4, -i at level 5 and i from level 6 on.
        return torch.arange(5) * torch.where(time > tau[4] - 1e-5, 0, torch.where(time > tau[5] - 1e-5, -1, 1))

    window = (tau[7].item(), tau[2].item())
    c, b = rejection_thresholds(WRONG.denoise, log_ratio, seeded_latents(5), CHOSEN, *window, quantile=0.75)
    assert torch.equal(c, levels({3: 0.0, 4: 0.0, 5: 0.0, 6: 6.0, 7: 0.0}))
    assert torch.equal(b, levels({3: 0.0, 4: 0.0, 5: 0.0, 6: 3.0, 7: 3.0}))


def test_samples_do_not_depend_on_their_batch():
    latents, log_ratio = seeded_latents(8), log_ratio_of(TRUE, WRONG)
    thresholds = rejection_thresholds(WRONG.denoise, log_ratio, seeded_latents(100), CHOSEN, 0.01, 1.0)
    drawn, nfe = rejected(log_ratio, latents, thresholds)
    assert nfe.max() > PLAIN_NFE
    for i in range(8):
        noise, uniform = streams(slice(i, i + 1))
        alone = sample_with_rejection(
            WRONG.denoise, log_ratio, latents[i : i + 1], noise, uniform, CHOSEN, thresholds, 500
        )
        assert torch.equal(alone[0][0], drawn[i])
        assert alone[1].item() == nfe[i]


@pytest.mark.parametrize("wrong", [math.inf, math.nan])
def test_a_log_ratio_that_is_not_finite_stops_both(wrong):
    def log_ratio(x_vp: Tensor, tau: Tensor) -> Tensor:
        return torch.tensor([0.0, wrong])

    with pytest.raises(DivergenceError, match="row 1"):
        rejection_thresholds(WRONG.denoise, log_ratio, seeded_latents(2), CHOSEN, 0.0, 1.0)
    with pytest.raises(DivergenceError, match="row 1"):
        rejected(log_ratio, seeded_latents(2), torch.zeros(2, STEPS))
