"""How numbers and names are written, the same in tables, figures and text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from discriminator_guidance.report.published import INCEPTION

MISSING = "–"
RULE_NAMES = {
    "mean_probability": "mean probability",
    "mean_logit": "mean logit",
    "clipped_logit_mean": "clipped raw logits (the study's code)",
}
Verdict = Literal["lower", "higher", "unclear", "unknown"]
VERDICT_WORDS: dict[Verdict, str] = {
    "lower": "better than no guidance",
    "higher": "worse than no guidance",
    "unclear": "no difference beyond sampling noise",
    "unknown": "no interval",
}


def fid_label(network: str, metric: str = "FID") -> str:
    """The metric's name with the network whose features it compares; with Inception's alone it needs no other name.

    Args:
        network: `fid_network` of the evaluation.
        metric: "FID" or "KID".

    Returns:
        "FID", or for example "FID (digits network)".
    """
    return metric if network == INCEPTION else f"{metric} ({network_name(network)})"


def network_name(network: str) -> str:
    """The feature network's name as printed: proper names keep their capital."""
    return network.capitalize() if network == INCEPTION else network


def number(value: float | None, digits: int) -> str:
    """A number with a fixed count of decimals, or a dash where there is none.

    Args:
        value: any number, NaN or None.
        digits: decimals.

    Returns:
        For example "4.06"; a value that rounds to zero has no sign.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float | None, digits: int) -> str:
    """Like `number`, with a plus before positive values: for differences."""
    text = number(value, digits)
    return f"+{text}" if text != MISSING and float(text) > 0 else text


def interval(bounds: Sequence[float] | None, digits: int, sign: bool = False) -> str:
    """A 95 % interval as "[lo, hi]", or a dash where there is none."""
    if bounds is None or any(bound is None or not math.isfinite(bound) for bound in bounds):
        return MISSING
    written = [signed(bound, digits) if sign else number(bound, digits) for bound in bounds]
    return f"[{written[0]}, {written[1]}]"


def estimate(value: float | None, bounds: Sequence[float] | None, digits: int = 2, sign: bool = False) -> str:
    """A value with its interval, "4.06 [3.80, 4.32]"; a dash where there is no value."""
    text = signed(value, digits) if sign else number(value, digits)
    limits = interval(bounds, digits, sign)
    return text if MISSING in (text, limits) else f"{text} {limits}"


def scientific(value: float | None) -> str:
    """A setting in the way people write it: 3e-4, 0.01, 2, 80."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "inf" if value > 0 else MISSING
    if value != 0 and abs(value) < 0.001:
        mantissa, exponent = f"{value:.6e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def reference_text(evaluation: Mapping[str, Any]) -> str:
    """What the Frechet distances of an evaluation compare with.

    Args:
        evaluation: of any variant.

    Returns:
        For example "1,438 real training images".
    """
    published = evaluation["reference_statistics"]
    return f"the statistics in {published}" if published else f"{count(evaluation['reference_n'])} real training images"


def samples_text(evaluation: Mapping[str, Any]) -> str:
    """How many samples of a variant were evaluated: 50,000, or 3 x 50,000 where there are several ranges."""
    images = count(evaluation["n"])
    return images if evaluation["ranges"] == 1 else f"{evaluation['ranges']} x {images}"


def count(value: float | None) -> str:
    """A whole number with thousands separated: 50,000."""
    return MISSING if value is None else f"{int(value):,}"


def data_note(card: Mapping[str, Any]) -> str:
    """What must be said of the real data beside every figure and table, as a sentence, or nothing.

    Args:
        card: the data card of stage `real`; its `note` may be null.

    Returns:
        For example "Note on the real data: JPEG re-encoded."; empty where the card has no note.
    """
    note = card.get("note")
    return f"Note on the real data: {str(note).rstrip('.')}." if note else ""


def clip_text(clip: float) -> str:
    """The interval a probability is kept in: [1e-5, 1 - 1e-5]."""
    return f"[{scientific(clip)}, 1 - {scientific(clip)}]"


def switch(value: bool) -> str:
    """on or off."""
    return "on" if value else "off"


def total_weight(w1: float, w2: float) -> float:
    """The weight that guidance has in a whole Heun step, which averages the slopes of its two halves."""
    return (w1 + w2) / 2


def members_text(members: Sequence[str]) -> str:
    """Members as the study writes them: D0, or D0-D5 for a run of neighbours of one name."""
    names = [name.upper() for name in members]
    stems = {name.rstrip("0123456789") for name in names}
    numbers = [int(digits) for name in names if (digits := name[len(name.rstrip("0123456789")) :])]
    if len(names) > 2 and len(stems) == 1 and numbers == list(range(numbers[0], numbers[0] + len(names))):
        return f"{names[0]}-{names[-1]}"
    return ", ".join(names) or "none"


def variant_text(variant: Mapping[str, Any]) -> str:
    """What a variant is, in a few words, from its section of the configuration.

    Args:
        variant: members, rule, weights, w1, w2, boosting, and a time window where it has its own.

    Returns:
        For example "D0-D5, mean probability".
    """
    members = list(variant["members"])
    if not members:
        return "no guidance"
    window = variant.get("window")
    when = f", VP time {scientific(window[0])} to {scientific(window[1])}" if window else ""
    if len(members) == 1 and variant["rule"] == "mean_probability":
        return f"{members_text(members)} alone{when}"
    rule = RULE_NAMES.get(variant["rule"], variant["rule"])
    if variant["weights"] == "equal":
        return f"{members_text(members)}, {rule}{when}"
    shares = [f"{name.upper()} {weight:.2f}" for name, weight in zip(members, variant["weights"], strict=True)]
    return f"{', '.join(shares)}; {rule}{when}"


def verdict(bounds: Sequence[float] | None) -> Verdict:
    """Whether a 95 % interval of a difference is clear of zero, and on which side.

    Args:
        bounds: [lo, hi], or None.

    Returns:
        "lower", "higher", "unclear" (zero inside), or "unknown" (no interval).
    """
    if interval(bounds, 2) == MISSING or bounds is None:
        return "unknown"
    low, high = bounds
    if high < 0:
        return "lower"
    return "higher" if low > 0 else "unclear"
