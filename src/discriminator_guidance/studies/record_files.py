"""The files a search leaves in `reports/`: its record, its table, its charts, and a word to the report about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from discriminator_guidance.artifacts.checksums import ENDING, write_checksums
from discriminator_guidance.artifacts.claims import alone
from discriminator_guidance.artifacts.files import read_json, sha256, write_bytes, write_csv, write_json
from discriminator_guidance.report.gather import STUDIES
from discriminator_guidance.report.study_charts import CHARTS, study_charts
from discriminator_guidance.stages.layout import Layout

Row = Mapping[str, float | int | str]


def write_record(
    word: str,
    read: Callable[[], tuple[Mapping[str, Any], Sequence[Row]]],
    layout: Layout,
    dpi: int,
    note: str = "",
) -> list[Path]:
    """Write `<word>.json`, `.csv`, `_<chart>.png` and their checksums, and tell the report that they are there.

    Args:
        word: `discriminator` or `ensemble`.
        read: makes record and rows, while nobody else writes any of the profile: so the later of two calls that end at
            once has the later trials, and neither mixes its files with the other's. The record has n_trials, states,
            seed, objective, parameters, best, importances, tuning, and whatever else the search has to say; `pareto`
            names the columns of cost and value, each with a label, where there are two. The rows are one for each trial
            that was begun: number, state, grid, value, params_* and more.
        layout: where files are.
        dpi: of the charts, dots an inch.
        note: what must be said of the real data beside every figure, "" for nothing.

    Returns:
        The files for people: record, table, charts.
    """
    with alone(layout.partial / "study-records.lock"):
        record, rows = read()
        return _write(word, record, rows, layout, dpi, note)


def _write(
    word: str, record: Mapping[str, Any], rows: Sequence[Row], layout: Layout, dpi: int, note: str
) -> list[Path]:
    folder, charts = layout.study_reports, study_charts(record, rows, dpi, note)
    json, table = (folder / f"{word}.{ending}" for ending in ("json", "csv"))
    pictures = {name: folder / f"{word}_{name}.png" for name in CHARTS}
    write_csv(table, [{**row, "note": note} for row in rows] if note else rows)
    for name, path in pictures.items():
        if name in charts:
            write_bytes(path, charts[name])
        else:
            path.unlink(missing_ok=True)
    write_json(json, record)
    written = [json, table, *(pictures[name] for name in charts)]
    write_checksums(folder / f"{word}{ENDING}", written[1:])  # the report is told that of the record
    # Stage `report` depends on the folder of evaluations, which is there whether or not anything was searched. By this
    # digest it sees that there is a search to show.
    seen = layout.evaluation(STUDIES)
    known = read_json(seen, "report") if seen.is_file() else {}
    write_json(seen, known | {word: sha256(json)})
    return written
