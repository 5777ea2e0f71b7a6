"""The picture of one training run that goes with it into tracking."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from discriminator_guidance.artifacts.files import write_bytes


def write_training_curve(history: Path, destination: Path) -> None:
    """Draw every column of a training curve over its first column (epoch or iteration).

    Args:
        history: history.csv of a training stage, at least one row.
        destination: PNG to write.
    """
    from matplotlib.figure import Figure

    with history.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    clock, *columns = rows[0]
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    kinds = [kind for kind in ("loss", "accuracy") if any(kind in column for column in columns)]
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for column in columns:
            if kind in column:
                axes.plot(
                    [float(row[clock]) for row in rows], [float(row[column]) for row in rows], marker=".", label=column
                )
        axes.set(xlabel=clock, ylabel=kind)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_bytes(destination, buffer.getvalue())
