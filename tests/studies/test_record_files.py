"""Files of a search: all of them, none of an earlier one, and the digest by which the report finds them."""

from __future__ import annotations

import csv
from pathlib import Path

from discriminator_guidance.artifacts.files import read_json, sha256
from discriminator_guidance.report.study_record import trials_of
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.record_files import write_record
from tests.report.searches import RECORD, rows


def test_record_table_and_charts_are_written_and_the_report_is_told(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "mini")
    written = write_record("ensemble", RECORD, rows(), layout, 50)
    names = {f"ensemble_{chart}.png" for chart in ("history", "importances", "parallel", "slice", "pareto")}
    assert {path.name for path in written} == {"ensemble.json", "ensemble.csv", *names}
    assert read_json(written[0], "study")["best"] == RECORD["best"]
    seen = layout.report / "evaluation" / "studies.json"
    assert read_json(seen, "study") == {"ensemble": sha256(written[0])}

    write_record("ensemble", RECORD, rows(), layout, 50, "Note on the real data: JPEG re-encoded.")
    with (layout.study_reports / "ensemble.csv").open(newline="") as stream:
        told = list(csv.DictReader(stream))
    assert {row["note"] for row in told} == {"Note on the real data: JPEG re-encoded."}
    assert trials_of(RECORD, told) == trials_of(RECORD, rows())

    write_record("discriminator", RECORD | {"importances": {}}, rows(), layout, 50)
    write_record("ensemble", RECORD | {"importances": {}}, rows(), layout, 50)
    assert set(read_json(seen, "study")) == {"discriminator", "ensemble"}
    assert not (layout.study_reports / "ensemble_importances.png").exists(), "of another record"
