"""The command `dguide study ensemble` from end to end: files, page and runs in MLflow."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from discriminator_guidance import cli, tracking
from discriminator_guidance.artifacts.claims import BusyError
from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.errors import InputError
from discriminator_guidance.stages.claims import stage_claim
from discriminator_guidance.studies import discriminator, ensemble, factorial
from tests.stages.conftest import Study
from tests.studies.test_ensemble import project, small_search

__all__ = ["project"]  # the fixture


READ = ("real", "fake", "score", "extractor", "fid_network")


@pytest.mark.parametrize(
    ("command", "module"),
    [("study discriminator", discriminator), ("study ensemble", ensemble), ("factorial", factorial)],
)
def test_nobody_writes_what_a_study_reads_while_it_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    module: ModuleType,
):
    own = Study(tmp_path, small_search())
    profile = own.root / "configs" / "tiny.yaml"
    profile.parent.mkdir()
    profile.write_text(json.dumps(own.settings).replace("Infinity", ".inf"))
    monkeypatch.chdir(own.root)
    refused = []

    def work(*given: object) -> None:
        for word in READ:
            with pytest.raises(BusyError, match=f"dguide {command}"), stage_claim(own.config, own.layout, word, {}):
                pass
            refused.append(word)
        raise InputError("a study", "the end of this test", "go on")

    monkeypatch.setattr(module, "run", work)
    trials = [] if command == "factorial" else ["--trials", "2"]
    monkeypatch.setattr(sys, "argv", ["dguide", *command.split(), "--profile", "tiny", *trials])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "the end of this test" in capsys.readouterr().err
    assert refused == [*READ]
    for word in READ:
        with stage_claim(own.config, own.layout, word, {}):
            pass


def test_a_study_ends_with_record_charts_and_a_run_that_has_them(
    project: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = Study(tmp_path / "project", small_search())
    shutil.copytree(project.root, own.root, ignore=shutil.ignore_patterns("study"))
    profile = own.root / "configs" / "tiny.yaml"
    profile.parent.mkdir()
    profile.write_text(json.dumps(own.settings).replace("Infinity", ".inf"))
    monkeypatch.chdir(own.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("DGUIDE_TRACKING_WAIT_S", "300")
    monkeypatch.setattr(sys, "argv", ["dguide", "study", "ensemble", "--profile", "tiny", "--trials", "5"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code

    names = {path.name for path in own.layout.study_reports.iterdir()} - {"ensemble.sha256"}
    assert names >= {f"ensemble.{ending}" for ending in ("json", "csv")} | {
        "ensemble_history.png",
        "ensemble_slice.png",
    }
    record = read_json(own.layout.study_reports / "ensemble.json", "study")
    client = tracking.open_store(own.root)
    assert client is not None
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    by_trial = {run.data.tags["trial"]: run for run in runs}
    assert set(by_trial) == {*map(str, range(record["n_trials"])), "all"}
    whole = by_trial["all"]
    assert {run.data.tags["study"] for run in runs} == {"tiny-ensemble"}
    assert whole.data.metrics["value"] == pytest.approx(record["best"]["value"])
    assert {artifact.path for artifact in client.list_artifacts(whole.info.run_id)} == names
    assert json.loads((own.layout.report / "evaluation" / "studies.json").read_text()).keys() == {"ensemble"}
