"""The table of a plan: a row for each stage, member and variant, in units a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from discriminator_guidance.planning.commands import Command
from discriminator_guidance.planning.estimate import Estimate, together

Row = dict[str, str]


def rows(estimates: Sequence[Estimate], start_up_s: float, recorded: Mapping[str, float] | None) -> list[Row]:
    """The rows.

    Args:
        estimates: of the stage runs; the evaluations become one row.
        start_up_s: of each run.
        recorded: seconds by name of finished runs, to be compared; None to compare nothing.

    Returns:
        Cells by column; the last row is the total.
    """
    evaluations = [each for each in estimates if each.command.stage == "evaluation"]
    table = []
    for each in estimates:
        if each.command.stage != "evaluation":
            table.append(_row(each.command.name, each, [each], recorded))
        elif each is evaluations[-1]:
            images = sum(part.command.images for part in evaluations)
            row = together(evaluations, Command("evaluation", images=images))
            table.append(_row(f"evaluation ({len(evaluations)})", row, evaluations, recorded))
    start_up = {"stage": f"start-up ({len(estimates)})", "time": duration(len(estimates) * start_up_s)}
    whole = together(estimates, Command("total"))
    total = _row("total", whole, estimates, recorded)
    total["images"] = ""
    total["time"] = duration(whole.seconds + len(estimates) * start_up_s)
    return [*table, start_up, total]


def _row(name: str, shown: Estimate, parts: Iterable[Estimate], recorded: Mapping[str, float] | None) -> Row:
    row = {
        "stage": name,
        "images": f"{shown.command.images:,}" if shown.command.images else "",
        "network evaluations": f"{shown.evaluations:,}" if shown.evaluations else "",
        "TFLOP": f"{shown.flops / 1e12:,.3g}" if shown.flops < 1e15 else f"{shown.flops / 1e12:,.0f}",
        "disk": size(shown.disk),
        "memory": size(shown.memory),
        "time": duration(shown.seconds),
    }
    if recorded is not None:
        both = [part for part in parts if part.command.name in recorded]
        took = sum(recorded[part.command.name] for part in both)
        expected = sum(part.seconds for part in both)
        row["recorded"] = f"{duration(took)} ({len(both)})" if name == "total" else duration(took) if both else ""
        row["estimate / recorded"] = f"{expected / took:.2f}" if took else ""
    return row


def size(count: float) -> str:
    """Bytes in a unit that fits.

    Args:
        count: of bytes.

    Returns:
        MB or GB, 10^6 and 10^9 bytes.
    """
    if not count:
        return ""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Seconds in units that fit.

    Args:
        seconds: at least 0.

    Returns:
        Seconds, minutes, or hours; days from two on.
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.1f} days"
