"""What the numbers show, in sentences chosen by whether an interval is clear of zero; none is fixed."""

from __future__ import annotations

from dataclasses import dataclass

from discriminator_guidance.report.clipped_story import AVERAGED, CLIPPED, clipped_story
from discriminator_guidance.report.ensemble_story import ensemble_story
from discriminator_guidance.report.gather import REFERENCE, ReportData
from discriminator_guidance.report.published import INCEPTION, STUDY_SAMPLING
from discriminator_guidance.report.ranking import rank, ranking
from discriminator_guidance.report.tuned_story import tuned_stories
from discriminator_guidance.report.wording import (
    VERDICT_WORDS,
    Verdict,
    count,
    estimate,
    fid_label,
    interval,
    number,
    samples_text,
    scientific,
    switch,
    total_weight,
    variant_text,
    verdict,
)

STUDY_SETTING = ("d0_table1", "ensemble_probability_table1", "ensemble_clipped_logit_table1")


@dataclass(frozen=True)
class Finding:
    """One thing the numbers show.

    Args:
        title: the question.
        answer: a few words, from the interval.
        verdict: on which side of zero the interval lies (colours the answer).
        paragraphs: the sentences.
    """

    title: str
    answer: str
    verdict: Verdict
    paragraphs: tuple[str, ...]


def findings(data: ReportData) -> list[Finding]:
    """The section "What this shows", from the evaluation's numbers alone.

    Args:
        data: contents of the other stages' files.

    Returns:
        One finding for each question whose variants are configured.
    """
    found, configured = [], data.evaluations
    averaged = [name for name in AVERAGED if name in configured]
    at_study = [name for name in STUDY_SETTING if name in configured]
    if "d0" in configured:
        found.append(_single(data, "d0", "Does guidance by one discriminator (D0) help?", ()))
    if len(singles := _single_members(data)) > 1:
        found.append(_every_single(data, singles))
    if averaged:
        found.append(_several(data, averaged, "Does averaging the discriminators help?", (), ranking(data, averaged)))
    if data.standings:
        found.append(Finding("Does averaging beat the members it averages?", *ensemble_story(data)))
    for story in tuned_stories(data):
        title, paragraphs = f"Did tuning pay ({story.name})?", (*story.paragraphs, _setting(data, story.name))
        found.append(Finding(title, story.answer, story.verdict, paragraphs))
    if CLIPPED in configured:
        found.append(_single(data, CLIPPED, "What does the study's ensemble code do?", clipped_story(data)))
    if at_study:
        title, more = "And at the study's own setting?", _matched_weight(data)
        found.append(_several(data, at_study, title, (_study_setting(data),), more))
    return found


def comparison(data: ReportData, name: str) -> str:
    """One sentence that compares a variant with the unguided one.

    Args:
        data: contents of the other stages' files.
        name: the variant.

    Returns:
        The sentence; its verb follows from the interval.
    """
    result, edm, label = data.evaluations[name], data.reference, fid_label(data.fid_network)
    values = f"from {number(edm['fid'], 2)} to {number(result['fid'], 2)}"
    bounds = result["delta_fid_ci95"]
    delta = f"{estimate(result['delta_fid_vs_edm'], bounds, sign=True)}"
    match verdict(bounds):
        case "lower":
            return (
                f"{name} lowers {label} {values}: the paired difference is {delta}, its 95 % interval wholly "
                "below zero."
            )
        case "higher":
            return (
                f"{name} raises {label} {values}: the paired difference is {delta}, its 95 % interval wholly "
                "above zero."
            )
        case "unclear":
            return (
                f"{name} moves {label} {values}, but the 95 % interval of the paired difference, {delta}, "
                "contains zero: sampling noise alone could explain it."
            )
        case _:
            return f"{name} has {label} {number(result['fid'], 2)}; no interval of the difference was computed."


def _single(data: ReportData, name: str, title: str, more: tuple[str, ...]) -> Finding:
    result, side = data.evaluations[name], verdict(data.evaluations[name]["delta_fid_ci95"])
    answer = VERDICT_WORDS[side]
    if side != "unknown":
        answer += f": {estimate(result['delta_fid_vs_edm'], result['delta_fid_ci95'], sign=True)}"
    return Finding(title, answer, side, (f"{comparison(data, name)} {_setting(data, name)}", *more))


def _single_members(data: ReportData) -> list[str]:
    """Variants of one discriminator trained here, at full weight in both slopes, without boosting."""
    alone = {(member.name,) for member in data.members}
    sections = {name: data.variant(name) for name in data.evaluations}
    return [
        name
        for name, section in sections.items()
        if tuple(section["members"]) in alone and section["w1"] == section["w2"] == 2 and not section["boosting"]
    ]


def _every_single(data: ReportData, names: list[str]) -> Finding:
    settings = data.settings["discriminator"]
    factor = settings["learning_rate_factor"]
    groups: dict[Verdict, list[str]] = {}
    lines = []
    for name in names:
        result = data.evaluations[name]
        side = verdict(result["delta_fid_ci95"])
        groups.setdefault(side, []).append(name)
        delta = estimate(result["delta_fid_vs_edm"], result["delta_fid_ci95"], sign=True)
        lines.append(f"{name} {delta} ({VERDICT_WORDS[side]})")
    rate = {name: settings["members"][data.variant(name)["members"][0]]["learning_rate"] * factor for name in names}
    title, label = "Does every single discriminator help?", fid_label(data.fid_network)
    answer = "; ".join(f"{', '.join(groups[side])}: {VERDICT_WORDS[side]}" for side in VERDICT_WORDS if side in groups)
    shown = (
        f"Each alone, w1 = w2 = 2, without boosting; change of {label} against no guidance: {'; '.join(lines)}. "
        "Intervals compare each with no guidance; Table 3 has the differences from d0."
    )
    worse = groups.get("higher", [])
    shared: Verdict = next(iter(groups)) if len(groups) == 1 else "unclear"
    if not worse:
        return Finding(title, answer, shared, (shown, "None is worse than no guidance beyond sampling noise."))
    others = [rate[name] for name in names if name not in worse]
    multiple = f"the study's × {scientific(factor)}"
    named = ", ".join(f"{name} (learning rate {scientific(rate[name])}, {multiple})" for name in worse)
    told = f"Worse than no guidance: {named}."
    if others:
        told += f" The others were trained at {scientific(min(others))} to {scientific(max(others))}."
    told += " With one training run each, this cannot say whether the learning rate is the reason."
    return Finding(title, answer, shared, (shown, told))


def _several(data: ReportData, names: list[str], title: str, intro: tuple[str, ...], more: tuple[str, ...]) -> Finding:
    sides = [verdict(data.evaluations[name]["delta_fid_ci95"]) for name in names]
    ranks = {name: rank(data, name) if name in AVERAGED else None for name in names}
    answer = "; ".join(
        f"{name}: {VERDICT_WORDS[side]}{f', {ranks[name]}' if ranks[name] else ''}"
        for name, side in zip(names, sides, strict=True)
    )
    shared: Verdict = sides[0] if len(set(sides)) == 1 else "unclear"
    sentences = (f"{comparison(data, name)} {_setting(data, name)}" for name in names)
    return Finding(title, answer, shared, (*intro, *sentences, *more))


def _setting(data: ReportData, name: str) -> str:
    variant = data.variant(name)
    return (
        f"Setting: {variant_text(variant)}; w1 = {scientific(variant['w1'])}, w2 = "
        f"{scientific(variant['w2'])}, a total weight of "
        f"{scientific(total_weight(variant['w1'], variant['w2']))}; boosting {switch(variant['boosting'])}."
    )


def _study_setting(data: ReportData) -> str:
    return (
        "Table 1 of the study guides the Euler step only (w1 = 2, w2 = 0), with boosting. Heun's method "
        "averages two slopes, so this applies a total weight of 1, while w1 = w2 = 2 applies 2: compare "
        f"these variants with each other, not with those of w1 = w2 = 2. Ours take {data.reference['steps']} "
        f"steps, the study's {STUDY_SAMPLING.steps}."
    )


def _matched_weight(data: ReportData) -> tuple[str, ...]:
    if "d0_w1" not in data.evaluations:
        return ()
    return (
        f"For comparison, without boosting and spread over both slopes: {comparison(data, 'd0_w1')} "
        f"{_setting(data, 'd0_w1')}",
    )


def caveats(data: ReportData) -> list[str]:
    """What a reader must know before believing the numbers, with the run's own N.

    Args:
        data: contents of the other stages' files.

    Returns:
        Sentences.
    """
    edm, label, kid = data.reference, fid_label(data.fid_network), fid_label(data.fid_network, "KID")
    held_out = edm["holdout_n"] / (edm["holdout_n"] + edm["reference_n"])
    published = data.fid_network == INCEPTION
    network = "" if published else f" and the network behind {label}"
    scale = (
        ""
        if published
        else " It has another scale than published FID values; only the direction of effects can be compared."
    )
    texts = [
        f"The reference of {label}{', ' if network else ' and '}the discriminators{network} share the "
        f"same {count(edm['reference_n'])} training images, so guidance could look good by pulling "
        f"samples towards those. {100 * held_out:.0f} % of the images ({count(edm['holdout_n'])}) were "
        f"therefore kept from every network, and Table 3 reports {kid} against them too. "
        f"{_holdout_sentence(data)}".strip(),
        seen_by_features(data),
        f"Every interval covers sampling noise only, for N = {samples_text(edm)} samples, with all networks "
        f"and the reference fixed: each network was trained once. {REFERENCE} itself stands at {label} "
        f"{number(edm['fid'], 2)} {interval(edm['fid_ci95'], 2)}.",
        f"{label} depends on N, on the reference and on the feature network.{scale}",
        "Intervals are not corrected for the number of variants compared.",
        "The classification scores judge discriminators on real and unguided images; they say nothing "
        "about guided ones.",
    ]
    return texts


def seen_by_features(data: ReportData) -> str:
    """What the discriminators' test pictures had been used for before, for the caveats and Table 3."""
    share = 100 * float(data.settings["discriminator"]["split"]["train"])
    return (
        f"The discriminators train on {share:.0f} % of the training pictures and are tested on others of them. The "
        "score network and the extractor train on all of them, so the discriminators' real test pictures were "
        "seen by their frozen features: their classification scores may be optimistic. The "
        f"{count(data.reference['holdout_n'])} held-out pictures were seen by none (kid_holdout)."
    )


def _holdout_sentence(data: ReportData) -> str:
    if "d0" not in data.evaluations:
        return ""
    edm, d0 = data.reference, data.evaluations["d0"]
    values = [edm["kid"], d0["kid"], edm["kid_holdout"], d0["kid_holdout"]]
    if any(value is None for value in values):
        return ""
    same = (d0["kid"] < edm["kid"]) == (d0["kid_holdout"] < edm["kid_holdout"])
    agree = "Both move the same way" if same else "The two move in opposite directions, so be careful"
    return (
        f"{agree}: from {REFERENCE} to d0, {number(edm['kid'], 4)} to {number(d0['kid'], 4)} against the "
        f"training images, {number(edm['kid_holdout'], 4)} to {number(d0['kid_holdout'], 4)} against the "
        "held-out ones."
    )
