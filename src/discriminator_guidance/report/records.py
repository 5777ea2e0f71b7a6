"""Unrounded numbers in long form, for other programs to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from discriminator_guidance.report.gather import ReportData
from discriminator_guidance.report.wording import data_note

if TYPE_CHECKING:
    import pandas as pd

CURVE_COLUMNS = ["member", "epoch", "split", "loss", "accuracy"]


def variants_frame(data: ReportData) -> pd.DataFrame:
    """Every evaluated variant with all its evaluation recorded, and its differences from the baselines.

    Args:
        data: contents of the other stages' files.

    Returns:
        A row for each variant; intervals become columns _lo and _hi, lists one cell; a last column `note` has that of
        the real data, if any.
    """
    import pandas as pd

    rows = []
    for name, evaluation in data.evaluations.items():
        row: dict[str, Any] = {}
        for key, value in {**evaluation, **_differences(data, name)}.items():
            if key.endswith("ci95"):
                row[f"{key}_lo"], row[f"{key}_hi"] = value if value is not None else (None, None)
            else:
                row[key] = _cell(value)
        rows.append(row)
    return _noted(pd.DataFrame(rows), data)


def _differences(data: ReportData, name: str) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for baseline, differences in data.differences.items():
        found = differences.get(name)
        columns[f"delta_fid_vs_{baseline}"] = None if found is None else found.value
        columns[f"delta_fid_vs_{baseline}_ci95"] = None if found is None else found.bounds
    return columns


def _cell(value: object) -> object:
    return "+".join(map(str, value)) if isinstance(value, list) else value


def curves_frame(data: ReportData) -> pd.DataFrame:
    """Training curves in long form (member, epoch, split, loss, accuracy, and the data's note), for `dvc plots`."""
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
    return _noted(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CURVE_COLUMNS), data)


def _noted(frame: pd.DataFrame, data: ReportData) -> pd.DataFrame:
    note = data_note(data.card)
    return frame.assign(note=note) if note else frame
