"""Files of a search: all of them, none of an earlier one, and the digest by which the report finds them."""

from __future__ import annotations

from pathlib import Path

from discriminator_guidance.artifacts.files import read_json, sha256
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

    write_record("discriminator", RECORD | {"importances": {}}, rows(), layout, 50)
    write_record("ensemble", RECORD | {"importances": {}}, rows(), layout, 50)
    assert set(read_json(seen, "study")) == {"discriminator", "ensemble"}
    assert not (layout.study_reports / "ensemble_importances.png").exists(), "of another record"
