"""Whether averaging pays against the members that are averaged, in words chosen by paired intervals."""

from __future__ import annotations

from discriminator_guidance.report.ensemble_table import CHOSEN, GRID, best_and_worst, clear_of_zero, start_text
from discriminator_guidance.report.gather import ReportData, Standing
from discriminator_guidance.report.wording import Verdict, estimate, fid_label, members_text, number, verdict

BESIDE_MEAN: dict[Verdict, str] = {
    "lower": "better than its members on average",
    "higher": "worse than its members on average",
    "unclear": "not told from its members on average",
    "unknown": "no interval against its members",
}


def ensemble_story(data: ReportData) -> tuple[str, Verdict, tuple[str, ...]]:
    """Every ensemble against its members on average, against the best of them, and against the ensemble of the grid.

    Args:
        data: contents of the other stages' files; it has at least one standing.

    Returns:
        A few words, the side of zero that all share ("unclear" where they do not), and sentences.
    """
    sides = {name: verdict(standing.from_mean.bounds) for name, standing in data.standings.items()}
    answer = "; ".join(f"{name}: {BESIDE_MEAN[side]}" for name, side in sides.items())
    shared = next(iter(sides.values())) if len(set(sides.values())) == 1 else "unclear"
    intro = (
        f"Paired differences in {fid_label(data.fid_network)} between an ensemble and its members, each sampled alone "
        f"with the same weights from the same noise. {CHOSEN} Every member was trained once: another training seed "
        "could change the order."
    )
    return answer, shared, (intro, *(_sentence(data, name, standing) for name, standing in data.standings.items()))


def _sentence(data: ReportData, name: str, standing: Standing) -> str:
    best, worst = best_and_worst(data, standing)
    fids = [number(data.evaluations[standing.alone[member]]["fid"], 2) for member in (best, worst)]
    mean, chosen = standing.from_mean, standing.from_each[best]
    better, worse = clear_of_zero(standing)
    text = (
        f"{name}, {members_text(list(standing.alone))} (start: {start_text(data, standing)}), whose members alone have "
        f"{fids[0]} ({best.upper()}) to {fids[1]} ({worst.upper()}): "
        f"{estimate(mean.value, mean.bounds, sign=True)} from their mean, "
        f"{estimate(chosen.value, chosen.bounds, sign=True)} from the best of them; better than {len(better)} and "
        f"worse than {len(worse)} of {len(standing.alone)} beyond sampling noise."
    )
    grid = None if name == GRID else data.differences.get(GRID, {}).get(name)
    if grid is None:
        return text
    return f"{text} From {GRID}: {estimate(grid.value, grid.bounds, sign=True)}."
