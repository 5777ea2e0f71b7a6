"""Numbers that are not finite, caught at the evaluation in which they arise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.guidance.density_ratio import Guidance
from discriminator_guidance.guidance.sampler import Denoiser

OnNonfinite = Literal["stop", "drop_guidance"]


@runtime_checkable
class Accountable(Protocol):
    """A guidance that can tell which of its members is at fault."""

    def culprits(self, x: Tensor, sigma: Tensor) -> list[str]:
        """The members whose own guidance is not finite.

        Args:
            x: (N, C, H, W) float64 noisy pictures.
            sigma: (N,) float64 noise levels.

        Returns:
            Their names; empty where each alone is finite.
        """


def finite_denoiser(denoiser: Denoiser, indices: Sequence[int]) -> Denoiser:
    """A denoiser that stops where a picture is not finite.

    Args:
        denoiser: (x, sigma) -> D(x; sigma).
        indices: sample index of each row.

    Returns:
        The same; raises DivergenceError with noise level and sample index.
    """

    def checked(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoiser(x, sigma)
        wrong = ~_finite_rows(denoised)
        if bool(wrong.any()):
            where = _place(wrong, sigma, indices)
            raise DivergenceError(
                "finite denoised pictures", f"NaN or infinity {where}", "lower w1 and w2, or check the score network"
            )
        return denoised

    return checked


def finite_guidance(
    guidance: Guidance, indices: Sequence[int], on_nonfinite: OnNonfinite, on_dropped: Callable[[Tensor], None]
) -> Guidance:
    """A guidance that stops where it is not finite, or leaves the sample concerned without guidance there.

    Args:
        guidance: (x, sigma) -> (score, log ratio).
        indices: sample index of each row.
        on_nonfinite: "stop" raises; "drop_guidance" gives the sample a score of 0 and a log ratio of +inf, as outside
            the time window, for this evaluation alone.
        on_dropped: told which rows, (N,) bool, were left without guidance.

    Returns:
        The same; raises DivergenceError with noise level, member and sample index.
    """

    def checked(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        score, log_ratio = guidance(x, sigma)
        # A log ratio of +inf is no fault: it marks samples outside the time window.
        wrong = ~_finite_rows(score) | log_ratio.isnan() | log_ratio.isneginf()
        if not bool(wrong.any()):
            return score, log_ratio
        if on_nonfinite == "drop_guidance":
            on_dropped(wrong)
            none = torch.zeros_like(score)
            return torch.where(_column(wrong), none, score), log_ratio.masked_fill(wrong, torch.inf)
        members: list[str] = guidance.culprits(x, sigma) if isinstance(guidance, Accountable) else []
        blamed = f" of member {', '.join(members)}" if members else ""
        raise DivergenceError(
            "finite guidance",
            f"NaN or infinity{blamed} {_place(wrong, sigma, indices)}",
            "lower w1 and w2, check the member's weights, or set guided.on_nonfinite: drop_guidance",
        )

    return checked


def _finite_rows(x: Tensor) -> Tensor:
    return torch.isfinite(x).flatten(1).all(dim=1)


def _place(wrong: Tensor, sigma: Tensor, indices: Sequence[int]) -> str:
    row, more = int(wrong.nonzero()[0]), int(wrong.sum()) - 1
    others = f" and {more} more of its batch" if more else ""
    return f"at noise level sigma = {float(sigma[row]):.4g} in sample {indices[row]}{others}"


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
