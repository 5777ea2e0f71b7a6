"""Several discriminators against one, in words chosen by the paired interval of their difference."""

from __future__ import annotations

from collections.abc import Sequence

from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.wording import Verdict, estimate, fid_label, verdict

SINGLE = "d0"
RANKS: dict[Verdict, str] = {
    "lower": f"better than {SINGLE}",
    "higher": f"worse than {SINGLE}",
    "unclear": f"not told from {SINGLE}",
    "unknown": f"no interval against {SINGLE}",
}


def rank(data: ReportData, name: str) -> str | None:
    """A variant's place against one discriminator alone.

    Args:
        data: contents of the other stages' files.
        name: the variant.

    Returns:
        For example "better than d0"; None where d0 was not evaluated, or is the variant.
    """
    difference = data.differences.get(SINGLE, {}).get(name)
    return None if difference is None else RANKS[verdict(difference.bounds)]


def ranking(data: ReportData, names: Sequence[str]) -> tuple[str, ...]:
    """The sentence that ranks averaged discriminators against one alone.

    Args:
        data: contents of the other stages' files.
        names: the averaging variants.

    Returns:
        One paragraph, or none where there is nothing to rank.
    """
    found = {name: data.differences[SINGLE][name] for name in names if rank(data, name) is not None}
    if not found:
        return ()
    each = "; ".join(
        f"{name} {estimate(difference.value, difference.bounds, sign=True)} ({rank(data, name)})"
        for name, difference in found.items()
    )
    return (
        f"Against {SINGLE}, one discriminator, the paired differences in {fid_label(data.fid_network)} are: {each}. "
        "They rank these networks as they were trained, once each; another training seed could change the order.",
    )
