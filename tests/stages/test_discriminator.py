"""Stage `discriminator`."""

from __future__ import annotations

import csv

import numpy as np

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.stages.discriminator import member_settings

from .conftest import Study
from .resumption import interrupt_and_resume


def test_writes_curve_metrics_calibration_and_test_logits(study: Study):
    study.ensure("discriminator", "d0")
    curves = study.layout.discriminator_reports / "d0"
    rows = list(csv.DictReader((curves / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    metrics = read_json(curves / "metrics.json", "discriminator")
    assert metrics["validation_loss"] == float(rows[-1]["validation_loss"])
    assert metrics["best_validation_loss"] == min(float(row["validation_loss"]) for row in rows)
    bins = list(csv.DictReader((curves / "calibration.csv").open()))
    logits = np.load(study.layout.discriminator("d0") / "test_logits.npz")
    assert sum(int(row["count"]) for row in bins) == len(logits["logits"])
    assert len({row["time"] for row in bins}) == 4


def test_learns_to_tell_barely_trained_fakes_from_real(study: Study):
    study.ensure("discriminator", "d0")
    logits = np.load(study.layout.discriminator("d0") / "test_logits.npz")
    real = logits["labels"] == 1
    assert logits["logits"][real].mean() > logits["logits"][~real].mean()


def test_all_members_are_tested_on_the_same_pairs(study: Study):
    for member in ("d0", "d1"):
        study.ensure("discriminator", member)
    d0, d1 = (np.load(study.layout.discriminator(m) / "test_logits.npz") for m in ("d0", "d1"))
    for name in ("labels", "time", "image"):
        assert np.array_equal(d0[name], d1[name])
    assert not np.array_equal(d0["logits"], d1["logits"])


def test_factors_scale_table_2(study: Study):
    settings = study.config.discriminator
    told = member_settings(settings.model_copy(update={"epoch_factor": 0.3, "learning_rate_factor": 5.0}), "d0")
    assert told.epochs == 1  # round(4 * 0.3)
    assert told.learning_rate == settings.members["d0"].learning_rate * 5
    assert member_settings(settings.model_copy(update={"epoch_factor": 0.01}), "d0").epochs == 1


def test_a_killed_training_resumes_to_the_same_bytes(study: Study, tmp_path, monkeypatch):
    study.ensure("discriminator", "d0")
    again = interrupt_and_resume(study, tmp_path, monkeypatch, "discriminator", "d0")
    for folder, name in [("discriminator", "model.safetensors"), ("discriminator", "test_logits.npz")]:
        path = again.layout.model(folder) / "d0" / name
        assert path.read_bytes() == (study.layout.model(folder) / "d0" / name).read_bytes()
    curve = again.layout.discriminator_reports / "d0" / "history.csv"
    assert curve.read_bytes() == (study.layout.discriminator_reports / "d0" / "history.csv").read_bytes()
