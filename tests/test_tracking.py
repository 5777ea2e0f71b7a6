"""Tracking: runs come back from a real store, and no fault of a server can hurt the work it tracks."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from dguide import tracking
from dguide.run import run_stage
from dguide.settings import load_config, plain
from discriminator_guidance.core.files import fingerprint, sha256, source_hash

from .commands import PROJECT, environment, run, succeed
from .stages.conftest import only, prepare_study, tiny_settings, write_params
from .studies import worker

ON = {"DGUIDE_TRACKING": "on"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out whatever the surroundings say about tracking."""
    for variable in [name for name in os.environ if name.startswith(("MLFLOW_", "DGUIDE_TRACKING", "DVC_"))]:
        monkeypatch.delenv(variable)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking 100%")


@pytest.fixture
def store(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the sqlite store in the project folder, which is also the current one."""
    from mlflow import MlflowClient

    monkeypatch.chdir(project)
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def runs(client: Any, experiment: str) -> dict[str, Any]:
    stored = client.get_experiment_by_name(experiment)
    return {run.info.run_name: run for run in client.search_runs([stored.experiment_id])}


def test_a_run_has_its_curves_settings_and_files(project: Path, store: Any) -> None:
    (project / "grid.png").write_bytes(b"grid")
    settings = {"network": {"channels": [1, 2]}, "w1": 2.0, "note": "x" * 7000}
    with tracking.run("members", "discriminator/d0", {"member": "d0"}, settings) as tracker:
        for epoch in (1, 2, 3):
            tracker.metrics(epoch, {"loss": 1 / epoch, "broken": float("nan")})
        tracker.params({"epochs": 12})
        tracker.artifact(project / "grid.png")
        tracker.summary({"auroc": 0.7, "checkpoint": "last"})
    (stored,) = runs(store, "members").values()
    assert (stored.info.run_name, stored.info.status) == ("discriminator/d0", "FINISHED")
    assert (stored.data.tags["member"], stored.data.tags["code"][:8]) == ("d0", source_hash()[:8])
    curve = store.get_metric_history(stored.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    assert {key for key in stored.data.metrics if not key.startswith("system/")} == {"loss", "auroc"}
    params = stored.data.params
    assert [params["network.channels"], params["w1"], params["epochs"]] == ["1, 2", "2.0", "12"]
    assert len(params["note"]) == 6000
    assert Path(store.download_artifacts(stored.info.run_id, "grid.png")).read_bytes() == b"grid"


def test_the_best_model_is_the_newest_of_its_path_with_the_smallest_loss(project: Path, store: Any) -> None:
    with tracking.recording():
        for path, loss in (("d0", 0.5), ("d1", 0.6), ("d0", 0.7)):  # d0 is trained again, and becomes worse
            (project / path).write_text(str(loss))
            with tracking.run("models", path, {}, {}) as tracker:
                tracker.model("discriminators", project / path, loss)
                tracker.model("score", project / path)
    best = store.get_model_version_by_alias("discriminators", "best")
    assert best.run_id == runs(store, "models")["d1"].info.run_id
    assert best.tags["weights.sha256"] == sha256(project / "d1")
    assert not store.get_registered_model("score").aliases


def test_a_stage_that_is_killed_is_recorded(project: Path, store: Any) -> None:
    _, layout = prepare_study(project / "killed", tiny_settings({"score.training.iterations": 10**6}))
    tracked, command = environment(**ON, DVC_ROOT=str(layout.root)), ["dguide", "score"]
    with subprocess.Popen(command, cwd=layout.root, env=tracked, stderr=subprocess.PIPE) as process:
        while not list(layout.partial.rglob("checkpoint.pt")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.communicate()
    client, patience = type(store)(f"sqlite:///{layout.root / 'mlflow.db'}"), time.monotonic() + 60
    while (status := runs(client, "mini")["score"].info.status) == "RUNNING" and time.monotonic() < patience:
        time.sleep(0.5)
    assert status == "KILLED"


def test_evaluations_can_be_compared_in_the_table(project: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(only("edm", "mean_prob") | {"report.describe": {"mean_prob": "Eq. 3"}})
    prepare_study(project / "study", settings)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(project / "study")
    with tracking.recording():
        for variant in settings["variants"]:
            run_stage("guided", Path("params.yaml"), variant=variant)
        run_stage("evaluation", Path("params.yaml"))
    recorded = runs(store, "mini")
    drawn, measured = recorded["guided/mean_prob"].data, recorded["evaluation/mean_prob"].data
    assert {"variant": "mean_prob", "steps": "4", "w1": "2.0"}.items() <= drawn.params.items()
    settings = {"rule": "mean_probability", "members": "d0, d1", "weights": "equal", "w1": "2.0"}
    assert settings.items() <= measured.params.items()
    assert not settings.keys() & measured.metrics.keys()
    results = json.loads((project / "study/reports/mini/evaluation/mean_prob.json").read_text())
    assert {key: measured.metrics[key] for key in results} == pytest.approx(results, rel=1e-4)
    parents = {run.data.tags.get("mlflow.parentRunId") for name, run in recorded.items() if "/" in name}
    assert parents == {None, recorded["evaluation"].info.run_id}
    assert measured.tags["settings"] == fingerprint(plain(load_config(Path("params.yaml"))))
    assert drawn.tags["mlflow.note.content"] == measured.tags["mlflow.note.content"] == "Eq. 3"


def test_trials_are_nested_runs_with_their_status(project: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {**worker.CORNERS, "diverges": {"x": 4.9, "y": 0.0}, "pruned": {"x": 0.0, "y": 4.9}}
    monkeypatch.setattr(worker, "CORNERS", points)
    write_params(project, tiny_settings())
    study = worker.take_part(project, 5)
    recorded = runs(store, "mini")
    ends = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}
    for trial in study.trials:
        stored = recorded[f"study/mini-ensemble/{trial.number}"]
        assert stored.data.tags["mlflow.parentRunId"] == recorded["study/mini-ensemble"].info.run_id
        assert stored.info.status == ends[trial.state]
        assert stored.data.params == {key: str(value) for key, value in trial.params.items()}
        if trial.state == TrialState.COMPLETE:
            assert stored.data.metrics["objective"] == pytest.approx(trial.value, rel=1e-4)


@pytest.mark.integration
def test_the_links_of_make_mlflow_show_runs_with_their_fid_and_curves(project: Path, store: Any) -> None:
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("needs chromium")
    for stage, name in (("evaluation", "edm"), ("discriminator", "d0")):
        with tracking.run("links", f"{stage}/{name}", {"stage": stage}, {"rule": "mean_logit"}) as tracker:
            tracker.metrics(1, {"validation_loss": 0.6})
            tracker.summary({"fid": 2.125})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    views = [sys.executable, str(PROJECT / "scripts/mlflow_views.py"), address]
    links = succeed(project, *views, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    shown = re.findall(r"links, .*(http\S+)", links)
    command = ["mlflow", "server", "--port", address.rpartition(":")[2], "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "mlartifacts"]
    quiet = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
    server = subprocess.Popen(command, cwd=project, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (server.poll() is not None or run(project, "curl", "--silent", address).stdout):
            time.sleep(0.5)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1900,900", "--dump-dom"]
        options += [f"--user-data-dir={project / 'browser'}", "--virtual-time-budget=30000"]
        table, curves = (succeed(project, browser, *options, link) for link in shown)
    finally:
        server.terminate()
        server.wait()
    assert all(text in table for text in ("evaluation/edm", "2.125", "mean_logit"))
    assert "discriminator/d0" not in table
    assert all(text in curves for text in ("discriminator/d0", "validation_loss"))
    assert "evaluation/edm" not in curves


@pytest.mark.parametrize(
    ("address", "listens"),
    [
        ("http://someone:secret@{server}/?token=secret", True),  # connections are taken and never answered
        ("postgresql+psycopg://someone:secret@{server}/runs", True),
        ("sqlite:////proc/{server}/mlflow.db", False),
    ],
)
def test_a_dead_or_silent_server_costs_one_warning_and_seconds(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str, listens: bool
) -> None:
    start = time.monotonic()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        name = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(server=name))
        with tracking.run("dead", "real", {}, {}) as tracker:
            for step in range(10_000):  # more than an ordinary pipe holds
                tracker.metrics(step, {"loss": 0.0})
            assert time.monotonic() - start < 5
    assert time.monotonic() - start < 60  # on a busy machine
    (warning,) = capfd.readouterr().err.splitlines()
    assert re.search(f"not tracked in MLflow.*{name}", warning)
    assert "secret" not in warning


def test_a_call_that_fails_costs_one_warning_and_nothing_else(store: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with tracking.recording():
        for experiment, replicate in (("faults", "r0"), ("", "of no experiment"), ("faults", "r1")):
            with tracking.run(experiment, replicate, {}, {}) as tracker:
                tracker.artifact(Path("absent"))
                tracker.summary({"images": 3})
    (warning,) = capfd.readouterr().err.splitlines()
    assert re.search("tracked in MLflow.*absent", warning)
    for stored in runs(store, "faults").values():
        assert (stored.info.status, stored.data.metrics["images"]) == ("FINISHED", 3)


def test_provenance_names_the_commit_and_edits_of_the_code(tmp_path: Path) -> None:
    assert tracking.provenance(tmp_path)["commit"] == "without git"
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("1")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "src"), ("commit", "-qm", "code")):
        succeed(tmp_path, *git, *command)
    (tmp_path / "results").write_text("not code")
    state = tracking.provenance(tmp_path)
    assert state["commit"] == succeed(tmp_path, "git", "rev-parse", "HEAD").strip()
    assert (state["uncommitted changes"], state["versions"]["torch"]) == (False, torch.__version__)
    (tmp_path / "src/code.py").write_text("2")
    assert tracking.provenance(tmp_path)["uncommitted changes"] is True
