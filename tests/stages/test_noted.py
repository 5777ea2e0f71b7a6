"""The note on the real data stands beside every number that a stage writes."""

from __future__ import annotations

import csv

from discriminator_guidance.artifacts.files import read_json
from tests.conftest import Copied

from .conftest import Study, tiny_settings

NOTE = "JPEG re-encoded"


def test_metrics_curves_and_calibration_carry_the_note(copied: Copied, tmp_path):
    settings = tiny_settings()
    settings["real"]["note"] = NOTE
    noted = copied(tmp_path / "noted", settings)
    noted.run("discriminator", "d0")
    noted.run("evaluation", "edm")
    curves = noted.layout.discriminator_reports / "d0"
    assert read_json(curves / "metrics.json", "discriminator")["note"] == NOTE
    assert read_json(noted.layout.evaluation("edm"), "evaluation")["note"] == NOTE
    for name in ("history.csv", "calibration.csv"):
        assert {row["note"] for row in csv.DictReader((curves / name).open())} == {NOTE}


def test_nothing_to_say_is_not_said(study: Study):
    study.ensure("discriminator", "d0")
    curves = study.layout.discriminator_reports / "d0"
    assert "note" not in read_json(curves / "metrics.json", "discriminator")
    assert "note" not in next(csv.reader((curves / "history.csv").open()))
