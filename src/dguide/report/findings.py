"""Questions with the answers that intervals give; a question is asked where the profile has rows to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dguide.report import published
from dguide.report.gather import KIDS, Difference, ReportData

SAMPLED = ("w1", "w2", "boosting", "window", "steps", "s_churn", "network", "autoguidance")


@dataclass(frozen=True)
class Finding:
    """A question and its answer; the template adds an explanation by `key`."""

    key: str
    question: str
    verdict: str  # better, worse, indistinguishable or mixed
    answer: str
    numbers: str
    signs: str  # where FID and a KID disagree


def findings(data: ReportData) -> list[Finding]:
    """The comparison that was chosen beforehand, and what the variants of the profile let one ask."""
    variants, (name, other) = data.settings["variants"], data.settings["report"]["primary"]
    null = {member for member, row in data.settings["members"].items() if row["permute_labels"]}
    singles = [
        row
        for row, variant in variants.items()
        if len(variant["members"]) == 1 and not set(variant["members"]) & null and not clipped(variant)
    ]
    twins = {row: twin for row in variants if (twin := _by_probability(variants, row))}
    of_table_1 = [row for row in variants if variants[row]["members"] and _as_the_reproduction(data, row)]
    questions: list[tuple[str, str, Mapping[str, Difference], str]] = [
        ("primary", "The comparison that was chosen beforehand", {name: data.differences[name, other]}, other),
        ("single", "Does guidance by one discriminator help?", data.from_baseline(singles), data.baseline),
        ("ensemble", "Does averaging beat the members it averages?", data.from_members(), "its members on average"),
        ("clipped", "What does the reproduction's ensemble code do?",
         {f"{row} against {twin}": data.differences[row, twin] for row, twin in twins.items()},
         "the same members by mean probability"),
        ("table1", "And with the reproduction's sampler settings?", data.from_baseline(of_table_1), data.baseline),
    ]  # fmt: skip
    return [_finding(data, *question) for question in questions if question[2]]


def sign_sentences(data: ReportData, differences: Mapping[str, Difference], other: str) -> list[str]:
    """For each of the two KIDs, the rows in which its difference from `other` has another sign than that of FID."""
    sentences = []
    for kid, kid_name in KIDS.items():
        rows = ", ".join(row for row, difference in differences.items() if difference.opposed(kid))
        verb, where = ("disagree", f"for {rows}") if rows else ("agree", "in every row")
        sentences.append(f"{data.label()} and {kid_name} {verb} in sign, against {other}, {where}.")
    return sentences


def clipped(variant: Mapping[str, Any]) -> bool:
    """Whether a variant guides by the reproduction's clipped-logit rule."""
    return bool(variant["rule"] == "clipped_logit_mean")


def _finding(data: ReportData, key: str, question: str, rows: Mapping[str, Difference], other: str) -> Finding:
    groups: dict[str, list[str]] = {}
    for row, difference in rows.items():
        groups.setdefault(difference.verdict, []).append(row)
    than = {verdict: f"{verdict} {'from' if verdict == 'indistinguishable' else 'than'} {other}" for verdict in groups}
    answer = "; ".join(f"{', '.join(names)}: {than[verdict]}" for verdict, names in groups.items())
    numbers = "; ".join(f"{row} {difference.text}" for row, difference in rows.items())
    verdict, *others = groups
    opposed = any(difference.opposed(kid) for difference in rows.values() for kid in KIDS)
    signs = sign_sentences(data, rows, other) if opposed else [f"{data.label()} and both KIDs agree in sign."]
    return Finding(key, question, "mixed" if others else verdict, answer, numbers, " ".join(signs))


def _by_probability(variants: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """The variant that differs from one of the clipped-logit rule in the rule alone."""
    keys = ("members", "weights", *SAMPLED)
    wanted = [variants[name][key] for key in keys]
    alike = [other for other, row in variants.items() if [row[key] for key in keys] == wanted]
    twins = [other for other in alike if variants[other]["rule"] == "mean_probability"]
    return twins[0] if twins and clipped(variants[name]) else None


def _as_the_reproduction(data: ReportData, name: str) -> bool:
    variant = data.settings["variants"][name]
    ours = data.evaluations[name]["steps"], variant["boosting"], variant["w1"], variant["w2"]
    return ours == published.SAMPLER
