"""Table 4: ensembles beside the members they average, each sampled alone."""

from __future__ import annotations

from discriminator_guidance.report.gather import REFERENCE, Difference, ReportData, Standing
from discriminator_guidance.report.table_files import Column, Table
from discriminator_guidance.report.wording import (
    MISSING,
    count,
    data_note,
    estimate,
    fid_label,
    number,
    samples_text,
    variant_text,
    verdict,
)

GRID = "ensemble_probability"  # the plain mean of the study's six settings
CHOSEN = (
    "The best member is chosen by the same samples, which favours it: a difference from it that is clear of zero on "
    "the side of the ensemble stands all the more, one on the other side less."
)


def ensemble_table(data: ReportData) -> Table:
    """Table 4: what averaging brings against the members alone.

    Args:
        data: contents of the other stages' files.

    Returns:
        One row for each ensemble whose members were all sampled alone in the same way.
    """
    fid = fid_label(data.fid_network)
    headings = {
        "": ["ensemble", "of", "start of its members"],
        f"{fid} [95 %]": ["ensemble", "mean of its members", "best member", "worst member"],
        "ensemble's difference [95 %] from": ["the mean of its members", "its best member", REFERENCE, GRID],
        "members it is": ["better than", "worse than"],
    }
    columns = tuple(Column(group, heading) for group, names in headings.items() for heading in names)
    rows = tuple(_row(data, name, standing) for name, standing in data.standings.items())
    notes = (
        f"N = {samples_text(data.reference)} samples of each; members alone and ensembles with the same weights w1, w2 "
        "and from the same noise, differences paired by sample seed and negative where the ensemble is better. "
        "Intervals cover sampling noise only: every member was trained once.",
        CHOSEN,
        "Better than, worse than: members from which the difference has an interval clear of zero.",
        *([] if rows else ["None: no ensemble had all its members sampled alone in the same way."]),
    )
    title = "Table 4. Ensembles beside their members"
    return Table("table4", title, columns, rows, notes, data_note(data.card))


def best_and_worst(data: ReportData, standing: Standing) -> tuple[str, str]:
    """The members whose own samples have the smallest and the largest distance.

    Args:
        data: contents of the other stages' files.
        standing: of the ensemble.

    Returns:
        Their names.
    """
    ranked = sorted(standing.alone, key=lambda member: data.evaluations[standing.alone[member]]["fid"])
    return ranked[0], ranked[-1]


def clear_of_zero(standing: Standing) -> tuple[list[str], list[str]]:
    """The members that an ensemble is told from.

    Args:
        standing: of the ensemble.

    Returns:
        Those it is better than, and those it is worse than.
    """
    sides = {member: verdict(difference.bounds) for member, difference in standing.from_each.items()}
    better, worse = ([member for member, side in sides.items() if side == wanted] for wanted in ("lower", "higher"))
    return better, worse


def start_text(data: ReportData, standing: Standing) -> str:
    """How the members of an ensemble began: "fresh", or for example "5 of 6 sequential".

    Args:
        data: contents of the other stages' files.
        standing: of the ensemble.

    Returns:
        A few words.
    """
    settings = data.settings["discriminator"]
    starts = []
    for member in standing.alone:
        row = settings["members"][member]
        own = row.get("differs", {}).get("init")
        starts.append("released" if "path" in row else own or settings["init"])
    kinds = dict.fromkeys(starts)
    if len(kinds) == 1:
        return str(starts[0])
    return ", ".join(f"{starts.count(kind)} of {len(starts)} {kind}" for kind in kinds)


def _row(data: ReportData, name: str, standing: Standing) -> tuple[str, ...]:
    result = data.evaluations[name]
    best, worst = best_and_worst(data, standing)
    grid = None if name == GRID else data.differences.get(GRID, {}).get(name)
    edm = Difference(result["delta_fid_vs_edm"], result["delta_fid_ci95"])
    differences = (standing.from_mean, standing.from_each[best], edm, grid)
    return (
        name,
        variant_text(data.variant(name)),
        start_text(data, standing),
        estimate(result["fid"], result["fid_ci95"]),
        number(standing.mean_fid, 2),
        *(_member(data, standing, member) for member in (best, worst)),
        *(MISSING if d is None else estimate(d.value, d.bounds, sign=True) for d in differences),
        *(f"{count(len(told))} of {count(len(standing.alone))}" for told in clear_of_zero(standing)),
    )


def _member(data: ReportData, standing: Standing, member: str) -> str:
    result = data.evaluations[standing.alone[member]]
    return f"{member.upper()} {estimate(result['fid'], result['fid_ci95'])}"
