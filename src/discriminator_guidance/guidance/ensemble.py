"""Rules that combine the members' logits into one log density ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from discriminator_guidance.guidance.clip import PROBABILITY_CLIP
from discriminator_guidance.guidance.density_ratio import clip_log_ratio

EnsembleRule = Callable[[Tensor, Tensor], Tensor]


def mean_probability(logits: Tensor, weights: Tensor) -> Tensor:
    """The log ratio of the weighted mean of the members' probabilities.

    Args:
        logits: (M, N) raw logits.
        weights: (M,) simplex weights.

    Returns:
        (N,) log d/(1-d) with d = sum_m w_m sigmoid(logit_m), clipped to [1e-5, 1 - 1e-5].

    Source: the study's Eq. 3 (equal weights). One member alone gives its own clipped log ratio.
    """
    log_weights = weights.log().unsqueeze(1)  # a weight of 0 becomes -inf and drops out of the sum
    real = torch.logsumexp(log_weights + logsigmoid(logits), dim=0)
    fake = torch.logsumexp(log_weights + logsigmoid(-logits), dim=0)
    return clip_log_ratio(real - fake)


def mean_logit(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the members' log ratios: the log of the geometric mean of their density ratios.

    Args:
        logits: (M, N) raw logits.
        weights: (M,) simplex weights.

    Returns:
        (N,) log ratio.

    Deviation: not clipped, unlike the log ratio of a single discriminator, since no mean of probabilities is taken.
    """
    return (weights.unsqueeze(1) * logits).sum(dim=0)


def clipped_logit_mean(logits: Tensor, weights: Tensor) -> Tensor:
    """What the study's published code computed: the mean of RAW LOGITS, clipped as if it were a probability.

    Kept only to show why the study's ensemble scored FID 14.35. Where the mean logit lies outside (0, 1) the log ratio
    is pinned at +-11.5 and its gradient is 0; inside, the gradient is scaled by 1 / (p (1 - p)) >= 4.

    Args:
        logits: (M, N) raw logits.
        weights: (M,) simplex weights.

    Returns:
        (N,) float64 log p/(1-p) with p = clip(sum_m w_m logit_m, 1e-5, 1 - 1e-5).

    Source: the study's published sampling code.
    """
    mistaken = mean_logit(logits, weights).double().clamp(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return mistaken.log() - torch.log1p(-mistaken)


RULES: dict[str, EnsembleRule] = {
    "mean_probability": mean_probability,
    "mean_logit": mean_logit,
    "clipped_logit_mean": clipped_logit_mean,
}


def simplex_weights(weights: Literal["equal"] | Sequence[float], members: int) -> tuple[float, ...]:
    """Spell the members' weights out.

    Args:
        weights: "equal", or one non-negative number for each member, together 1.
        members: number of members.

    Returns:
        One weight for each member.
    """
    if weights == "equal":
        return (1.0 / members,) * members
    return tuple(float(weight) for weight in weights)


def combine(
    member_logits: Callable[[Tensor, Tensor], Tensor], rule: str, weights: Sequence[float]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The ensemble's log ratio as a function of picture and time.

    Args:
        member_logits: (x_vp, tau) -> (M, N) raw logits.
        rule: a key of `RULES`.
        weights: M simplex weights.

    Returns:
        (x_vp, tau) -> (N,) log ratio; NaN where a member's logit is not finite, which a rule's clip would hide.
    """
    fuse = RULES[rule]

    def log_ratio(x_vp: Tensor, tau: Tensor) -> Tensor:
        logits = member_logits(x_vp, tau)
        # Logits may come in bfloat16; the rule's logarithms are taken in at least float32.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        ratio = fuse(logits, logits.new_tensor(weights))
        return ratio.masked_fill(~logits.isfinite().all(dim=0), torch.nan)

    return log_ratio
