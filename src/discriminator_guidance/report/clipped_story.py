"""What averaging raw logits and clipping them as if they were probabilities does to guidance, in this run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.wording import VERDICT_WORDS, clip_text, number, verdict

CLIPPED = "ensemble_clipped_logit"
AVERAGED = ("ensemble_probability", "ensemble_logit")
NEAR_ZERO = 0.25  # below it, what should be "no idea" is read as "rather surely generated"
FLOAT32_MARGIN = 1e-3  # the file holds float32


def clipped_story(data: ReportData) -> tuple[str, ...]:
    """What the mistaken rule does, and what this run's log ratios show of it.

    Args:
        data: contents of the other stages' files; `ensemble_clipped_logit` is among its variants.

    Returns:
        Paragraphs.
    """
    clip = data.inputs.probability_clip
    limit = math.log((1 - clip) / clip)
    bound = number(limit, 1)
    why = (
        "A discriminator ends in a logit: any number, negative for “looks generated”, positive for “looks "
        "real”. The sigmoid turns it into a probability, and guidance follows the gradient of log p / (1 - "
        "p). The study's published code averaged the raw logits of its members and then treated this mean "
        f"as if it were already a probability: it clipped it to {clip_text(clip)}."
    )
    what = (
        "So where the mean logit is negative, which is where a sample most needs correcting, the log ratio "
        f"is pinned at -{bound} and its gradient is zero: no guidance. Above 1 it is pinned at +{bound}, "
        "again with zero gradient. Only between 0 and 1 is there a gradient, and there it is the logit's "
        "own times 1 / (p (1 - p)), at least 4 and without bound towards the edges: the push is at least "
        "four times too hard."
    )
    shares = _pinned(data, limit)
    match verdict(data.evaluations[CLIPPED]["delta_fid_ci95"]):
        case "higher":
            end = (
                "In this run that does harm: the same members, combined by this rule, end worse than no "
                "guidance at all."
            )
        case "lower":
            end = (
                "In this run the mistake does not undo guidance: even so combined, the members improve on no guidance."
            )
        case "unclear":
            end = "In this run the mistake leaves nothing that can be told from no guidance."
        case _:
            end = "Whether it does harm in this run cannot be said without an interval."
    others = [
        f"{name} ({VERDICT_WORDS[verdict(data.evaluations[name]['delta_fid_ci95'])]})"
        for name in AVERAGED
        if name in data.evaluations
    ]
    if others:
        end += f" The same members under a proper rule: {', '.join(others)}."
    amplified = _amplification(data, limit)
    return (why, f"{what} {shares}".strip(), *amplified, end)


def _pinned(data: ReportData, limit: float) -> str:
    ratio = data.trajectories[CLIPPED].log_ratio
    active = ratio[np.isfinite(ratio)]
    if active.size == 0:
        return ""
    edge = limit - FLOAT32_MARGIN
    low, high = 100 * np.mean(active <= -edge), 100 * np.mean(active >= edge)
    return (
        f"Over all samples and guided steps of {CLIPPED}, {low:.0f} % of the log ratios were pinned at the "
        f"bottom and {high:.0f} % at the top."
    )


@dataclass(frozen=True)
class FreePart:
    """Log ratios that the clip does not pin.

    Args:
        share: their part of all log ratios, 0 to 1.
        probability: median of p, what the rule takes for a probability.
        amplification: median of 1 / (p (1 - p)), by which the gradient of the mean logit is multiplied.
    """

    share: float
    probability: float
    amplification: float


def free_part(log_ratio: NDArray[np.float32], limit: float) -> FreePart | None:
    """How hard the rule pushes where it pushes at all.

    Args:
        log_ratio: (steps, N) log ratios log p / (1 - p) of guided steps.
        limit: the largest |log ratio| that the clip leaves.

    Returns:
        Share and medians over the samples that are not pinned; None where all are.
    """
    free = log_ratio[np.abs(log_ratio) < limit - FLOAT32_MARGIN].astype(np.float64)
    if free.size == 0:
        return None
    probability = 1 / (1 + np.exp(-free))
    amplification = 1 / (probability * (1 - probability))
    return FreePart(free.size / log_ratio.size, float(np.median(probability)), float(np.median(amplification)))


def _amplification(data: ReportData, limit: float) -> tuple[str, ...]:
    ratio = data.trajectories[CLIPPED].log_ratio
    guided = ratio[np.isfinite(ratio).all(axis=1)]
    half = (len(guided) + 1) // 2
    if len(guided) < 2:
        return ()
    early, late = free_part(guided[:half], limit), free_part(guided[half:], limit)
    counted = (
        f"In the first half of the guided steps (most noise) {_free_text(early)}; in the second half (least noise) "
        f"{_free_text(late)}. Where a sample is pinned, there is no guidance."
    )
    if early is None:
        return (counted,)
    if early.probability < NEAR_ZERO and (late is None or early.amplification > late.amplification):
        meaning = (
            "At high noise a picture is almost all noise, and a discriminator knows next to nothing: its logit "
            "hovers near 0, which means fifty-fifty. The mistaken rule reads that 0 as a probability near 0, “almost "
            f"surely generated”, and multiplies the gradient by {number(early.amplification, 0)} (median). What it "
            "multiplies is mostly noise, so noise becomes a strong push."
        )
    else:
        meaning = (
            "In this run the push is not hardest at high noise, where a discriminator knows least, or what the rule "
            "takes for a probability is not near 0 there."
        )
    return (f"{counted} {meaning}",)


def _free_text(part: FreePart | None) -> str:
    if part is None:
        return "all log ratios are pinned"
    return (
        f"{100 * part.share:.0f} % of the log ratios are not pinned, with median p = "
        f"{number(part.probability, 2)} and a gradient amplified {number(part.amplification, 1)} times (median)"
    )
