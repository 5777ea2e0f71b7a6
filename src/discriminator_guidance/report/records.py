"""Unrounded numbers in long form, for other programs to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from discriminator_guidance.report.gather import ReportData

if TYPE_CHECKING:
    import pandas as pd

CURVE_COLUMNS = ["member", "epoch", "split", "loss", "accuracy"]


def variants_frame(data: ReportData) -> pd.DataFrame:
    """Every configured variant with all its evaluation recorded; intervals become columns _lo and _hi."""
    import pandas as pd

    rows = []
    for evaluation in data.evaluations.values():
        row: dict[str, Any] = {}
        for key, value in evaluation.items():
            if key.endswith("ci95"):
                row[f"{key}_lo"], row[f"{key}_hi"] = value if value is not None else (None, None)
            else:
                row[key] = "+".join(map(str, value)) if isinstance(value, list) else value
        rows.append(row)
    return pd.DataFrame(rows)


def curves_frame(data: ReportData) -> pd.DataFrame:
    """Training curves in long form (member, epoch, split, loss, accuracy), for `dvc plots`."""
    import pandas as pd

    parts = [
        pd.DataFrame(
            {
                "member": member.name,
                "epoch": member.history["epoch"],
                "split": split,
                "loss": member.history[f"{split}_loss"],
                "accuracy": member.history[f"{split}_accuracy"],
            }
        )
        for member in data.members
        for split in ("train", "validation")
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CURVE_COLUMNS)
