"""Stage `report`, on the results of the other stages."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from discriminator_guidance.errors import InputError

from .conftest import VARIANTS, Study


@pytest.fixture
def page(study: Study) -> str:
    study.ensure("report")
    return (study.layout.report / "index.html").read_text()


def test_tables_figures_and_page_are_there(study: Study, page: str):
    report = study.layout.report
    assert {path.name for path in (report / "tables").iterdir()} == {
        *(f"table{n}.{ending}" for n in (1, 2, 3, 4) for ending in ("csv", "md", "tex")),
        "variants.csv",
    }
    assert {path.stem for path in (report / "figures").iterdir()} == {
        "fig1",
        "fig2",
        "fig3",
        "fid",
        "calibration",
        "guidance",
    }
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_every_variant_has_a_row_with_the_numbers_of_its_evaluation(study: Study, page: str):
    rows = list(csv.DictReader((study.layout.report / "tables" / "variants.csv").open()))
    assert [row["variant"] for row in rows] == list(VARIANTS)
    for row in rows:
        evaluated = json.loads(study.layout.evaluation(row["variant"]).read_text())
        assert float(row["fid"]) == pytest.approx(evaluated["fid"])


def test_differences_are_paired_by_the_influence_of_each_sample(study: Study, page: str):
    from discriminator_guidance.evaluation.significance import paired_interval

    rows = {row["variant"]: row for row in csv.DictReader((study.layout.report / "tables" / "variants.csv").open())}
    names = ("ensemble_probability", "d0")
    fids = [json.loads(study.layout.evaluation(name).read_text())["fid"] for name in names]
    pulls = [np.load(study.layout.influence(name))["influence"] for name in names]
    low, high = paired_interval(fids[0] - fids[1], *pulls)
    row = rows["ensemble_probability"]
    assert float(row["delta_fid_vs_d0"]) == pytest.approx(fids[0] - fids[1])
    assert float(row["delta_fid_vs_d0_ci95_lo"]) == pytest.approx(low)
    assert float(row["delta_fid_vs_d0_ci95_hi"]) == pytest.approx(high)
    assert rows["d0"]["delta_fid_vs_d0"] == ""


def test_influence_of_other_samples_is_not_compared(study: Study, page: str, tmp_path):
    again = Study(tmp_path / "again")
    shutil.copytree(study.root, again.root)
    path = again.layout.influence("d0_table1")
    arrays = dict(np.load(path))
    np.savez(path, influence=arrays["influence"], index=arrays["index"] + 1)
    with pytest.raises(InputError, match="the same sample indices in the influence of d0_table1 and d0"):
        again.run("report")


def test_an_outdated_start_in_another_pipeline_is_named_with_its_file(study: Study, page: str, tmp_path, monkeypatch):
    again = Study(tmp_path / "again")
    shutil.copytree(study.root, again.root)
    again.settings["discriminator"]["init"] = "sequential"
    monkeypatch.setenv("DVC_STAGE", "families/dvc.yaml:report@tiny")
    remedy = "dvc repro -f -s families/dvc.yaml:discriminator@tiny-d1`, then `dvc repro families/dvc.yaml`"
    with pytest.raises(InputError, match=remedy):
        again.run("report")


def test_curves_hold_every_epoch_of_every_member(study: Study, page: str):
    rows = list(csv.DictReader((study.layout.report / "curves.csv").open()))
    assert {(row["member"], row["split"]) for row in rows} == {
        (member, split) for member in ("d0", "d1") for split in ("train", "validation")
    }
    assert len(rows) == 2 * 2 * 4


def test_provenance_names_data_and_versions(study: Study, page: str):
    from discriminator_guidance.artifacts.files import sha256

    state = json.loads((study.layout.report / "provenance.json").read_text())
    assert state["data sha256"]["real"] == sha256(study.layout.real / "train.npz")
    assert {"torch", "torchmetrics", "torch-fidelity"} <= set(state["versions"])


def test_a_second_run_writes_the_same_bytes(study: Study, page: str):
    files = [path for path in study.layout.report.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    study.run("report")
    assert {path: path.read_bytes() for path in files} == before


def test_a_missing_evaluation_is_named(study: Study, tmp_path):
    study.ensure("report")
    again = Study(tmp_path / "again")
    shutil.copytree(study.root, again.root)
    again.layout.evaluation("d0").unlink()
    with pytest.raises(InputError, match=r"evaluation/d0\.json"):
        again.run("report")


def test_a_member_that_went_on_from_other_settings_is_not_reported(study: Study, tmp_path):
    """DVC knows a member's own row alone: it keeps d1 when d0, from which it goes on, has changed."""
    import shutil

    from discriminator_guidance.stages.chain import predecessors_hash

    study.ensure("report")
    again = Study(tmp_path / "again")
    shutil.copytree(study.root, again.root)
    again.settings["discriminator"]["init"] = "sequential"
    with pytest.raises(InputError, match=r"d1 that goes on from d0 .*dvc repro -f -s discriminator@tiny-d1") as caught:
        again.run("report")
    assert "\n" not in str(caught.value)
    path = again.layout.discriminator_reports / "d1" / "metrics.json"
    recorded = json.loads(path.read_text()) | {"predecessors_hash": predecessors_hash(again.config.discriminator, "d1")}
    path.write_text(json.dumps(recorded))
    again.run("report")
    again.settings["discriminator"]["members"]["d0"]["learning_rate"] *= 2
    with pytest.raises(InputError, match="when the members before it had other settings"):
        again.run("report")
