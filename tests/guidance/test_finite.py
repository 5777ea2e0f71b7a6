"""What is not finite is caught where it arises, and only the sample concerned goes without guidance."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.guidance.finite import finite_denoiser, finite_guidance

X = torch.ones(4, 1, 2, 2, dtype=torch.float64)
SIGMA = torch.tensor([2.0, 2.0, 2.5, 2.0], dtype=torch.float64)
INDICES = range(100, 104)


def refuse(rows: torch.Tensor) -> None:
    raise AssertionError("nothing may be dropped")


def spoilt(row: int, value: float, what: str):
    def guidance(x, sigma):
        score, ratio = 0.5 * x, torch.full((len(x),), 3.0, dtype=torch.float64)
        if what == "score":
            score[row, 0, 1, 0] = value
        else:
            ratio[row] = value
        return score, ratio

    return guidance


FAULTS = [(float("nan"), "score"), (float("inf"), "score"), (float("nan"), "ratio"), (float("-inf"), "ratio")]


@pytest.mark.parametrize(("value", "what"), FAULTS)
def test_stop_names_noise_level_and_sample(value, what):
    checked = finite_guidance(spoilt(2, value, what), INDICES, "stop", refuse)
    with pytest.raises(DivergenceError) as caught:
        checked(X, SIGMA)
    assert str(caught.value) == (
        "expected finite guidance; got NaN or infinity at noise level sigma = 2.5 in sample 102; lower w1 and w2, "
        "check the member's weights, or set guided.on_nonfinite: drop_guidance"
    )


@pytest.mark.parametrize(("value", "what"), FAULTS)
def test_drop_takes_guidance_from_that_sample_alone(value, what):
    dropped = []
    checked = finite_guidance(spoilt(2, value, what), INDICES, "drop_guidance", dropped.append)
    score, ratio = checked(X, SIGMA)
    assert score[2].abs().max() == 0
    assert torch.equal(score[[0, 1, 3]], 0.5 * X[[0, 1, 3]])
    assert ratio.tolist() == [3.0, 3.0, torch.inf, 3.0]
    assert [rows.tolist() for rows in dropped] == [[False, False, True, False]]


def test_outside_the_time_window_nothing_is_wrong():
    checked = finite_guidance(spoilt(1, float("inf"), "ratio"), INDICES, "stop", refuse)
    assert checked(X, SIGMA)[1][1] == torch.inf


def test_the_member_at_fault_is_named():
    class Three:
        def __call__(self, x, sigma):
            return spoilt(1, float("nan"), "score")(x, sigma)

        def culprits(self, x, sigma):
            assert torch.equal(x, X)
            assert torch.equal(sigma, SIGMA)
            return ["d3", "d5"]

    with pytest.raises(DivergenceError, match=r"of member d3, d5 at noise level sigma = 2 in sample 101;"):
        finite_guidance(Three(), INDICES, "stop", refuse)(X, SIGMA)


def test_a_denoiser_always_stops():
    def denoiser(x, sigma):
        assert torch.equal(sigma, SIGMA)
        denoised = 0.1 * x
        denoised[1:3, 0, 0, 0] = torch.nan
        return denoised

    with pytest.raises(DivergenceError) as caught:
        finite_denoiser(denoiser, INDICES)(X, SIGMA)
    assert str(caught.value) == (
        "expected finite denoised pictures; got NaN or infinity at noise level sigma = 2 in sample 101 and 1 more of "
        "its batch; lower w1 and w2, or check the score network"
    )
    whole = finite_denoiser(lambda x, sigma: 0.1 * x, INDICES)
    assert torch.equal(whole(X, SIGMA), 0.1 * X)
