"""What tuning brought on samples that took no part in it, beside what it seemed to bring on those it was done by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.wording import Verdict, count, estimate, fid_label, number, signed, verdict

# Of each tuned variant: what its study began with, and what it is compared with besides.
STARTS = {"tuned": ("d0", ()), "ensemble_tuned": ("ensemble_probability", ("d0",))}
SIDES: Mapping[Verdict, str] = {
    "lower": "better than {}",
    "higher": "worse than {}",
    "unclear": "not told from {}",
    "unknown": "no interval against {}",
}


@dataclass(frozen=True)
class TunedStory:
    """A tuned variant against what its study began with.

    Args:
        name: of the variant.
        answer: a few words.
        verdict: on which side of zero the paired difference from the start lies.
        paragraphs: sentences.
    """

    name: str
    answer: str
    verdict: Verdict
    paragraphs: tuple[str, ...]


def tuned_stories(data: ReportData) -> list[TunedStory]:
    """The tuned variants that were evaluated.

    Args:
        data: contents of the other stages' files.

    Returns:
        A story for each whose start was evaluated too.
    """
    return [
        _story(data, name, start, others)
        for name, (start, others) in STARTS.items()
        if name in data.evaluations and start in data.differences
    ]


def _story(data: ReportData, name: str, start: str, others: tuple[str, ...]) -> TunedStory:
    against = [other for other in (start, *others) if other in data.differences]
    found = {other: data.differences[other][name] for other in against}
    sides = {other: verdict(difference.bounds) for other, difference in found.items()}
    each = "; ".join(
        f"from {other} {estimate(difference.value, difference.bounds, sign=True)} ({SIDES[sides[other]].format(other)})"
        for other, difference in found.items()
    )
    answer = "; ".join(SIDES[side].format(other) for other, side in sides.items())
    told = f"{name}: paired differences in {fid_label(data.fid_network)} on the evaluation samples, {each}."
    tuning = data.variant(name).get("tuning")
    bias = () if tuning is None else (_selection(data, name, start, tuning),)
    return TunedStory(name, answer, sides[start], (told, *bias))


def _selection(data: ReportData, name: str, start: str, tuning: Mapping[str, Any]) -> str:
    result = data.evaluations[name]
    text = (
        f"Trial {tuning['trial']} of study {tuning['study']} was chosen for its {number(tuning['fid'], 2)} on "
        f"{count(tuning['images'])} tuning samples; on the {count(result['n'])} evaluation samples, which took no "
        f"part in the choice, it has {estimate(result['fid'], result['fid_ci95'])}."
    )
    if tuning.get("start_fid") is not None:
        seemed = tuning["fid"] - tuning["start_fid"]
        held = data.differences[start][name].value
        text += (
            f" On the tuning samples it stood {signed(seemed, 2)} from {start}, on the evaluation samples "
            f"{signed(held, 2)}: the gap of {signed(held - seemed, 2)} holds the bias of choosing the best of many "
            "trials, and sampling noise."
        )
    return f"{text} The distance depends on the number of samples, so only those of one set compare."
