"""Tracking: runs come back from a real store, and no fault of a server can hurt the work it tracks."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from discriminator_guidance import tracking
from discriminator_guidance.errors import ConfigError
from tests.amount import FULL, cases, count
from tests.watching import noted, watched

EPOCHS = {"d0": 4, "d1": 3, "d5": 5}
MEMBER_METRICS = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy"}
DIGEST = hashlib.sha256(b"real").hexdigest()
LONG = "x" * 7000
# How long a healthy store may take on a busy machine.
GENEROUS_S = "120"
# What a tracked stage does, as a program of its own.
PROGRAM = """
import sys
from pathlib import Path
from discriminator_guidance import tracking
with tracking.run(Path(sys.argv[1]), "study", sys.argv[2], {"stage": "score"}, {"steps": 3}, {}) as recorder:
    for step in range(3):
        recorder.metrics(step, {"loss": 1.0 / (step + 1)})
print("done")
"""


@dataclass(frozen=True)
class Study:
    """A project folder whose runs were tracked, and a client to read them."""

    root: Path
    client: Any
    runs: dict[str, Any]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out whatever the surroundings, and the tests before, say about tracking."""
    monkeypatch.setattr(tracking, "_resting", {})
    for variable in list(os.environ):
        if variable.startswith(("MLFLOW_", "DGUIDE_TRACKING", "DVC_")):
            monkeypatch.delenv(variable)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Three members, trained in pretence, in a folder with a blank and a per cent sign in its name."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("tracking") / "my study 100%"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith(("MLFLOW_", "DGUIDE_TRACKING", "DVC_")):
                patch.delenv(variable)
        patch.setenv("DVC_STAGE", "discriminator@mini-d0")
        patch.setenv("DGUIDE_TRACKING_WAIT_S", GENEROUS_S)
        for member, epochs in EPOCHS.items():
            _train(root, member, epochs)
        assert "MLFLOW_TRACKING_URI" not in os.environ
        client = MlflowClient(tracking.tracking_uri(root))
        experiment = client.get_experiment_by_name("mini")
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        yield Study(root, client, runs)


def _train(root: Path, member: str, epochs: int) -> None:
    weights = root / "models" / "mini" / member / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(member.encode())
    figure = root / f"{member}.svg"
    figure.write_text("<svg/>")
    tags = {"stage": "discriminator", "profile": "mini", "member": member}
    params = {"network": {"model_channels": 48, "channel_mult": [1, 2]}, "epochs": epochs, "note": LONG}
    with tracking.run(root, "mini", f"discriminator {member}", tags, params, {"real": DIGEST}) as recorder:
        for epoch in range(1, epochs + 1):
            recorder.metrics(epoch, dict.fromkeys(MEMBER_METRICS, 1.0 / epoch))
        recorder.metrics(1, {"diverged": math.inf, "undefined": math.nan, "absent": None})
        recorder.artifact(figure)
        recorder.register(f"discriminator-mini-{member}", weights, {"profile": "mini", "member": member})


def _history(study: Study, member: str, key: str) -> list[tuple[int, float]]:
    points = study.client.get_metric_history(study.runs[f"discriminator {member}"].info.run_id, key)
    return [(point.step, point.value) for point in points]


def test_members_can_be_compared_in_one_chart(study: Study) -> None:
    assert set(study.runs) == {"discriminator d0", "discriminator d1", "discriminator d5"}
    for member, epochs in EPOCHS.items():
        run = study.runs[f"discriminator {member}"]
        assert run.info.status == "FINISHED"
        assert "mlflow.parentRunId" not in run.data.tags
        own = {key for key in run.data.metrics if not key.startswith("system/")}
        assert own == MEMBER_METRICS | {"undefined"}
        for key in MEMBER_METRICS:
            assert _history(study, member, key) == [(epoch, 1.0 / epoch) for epoch in range(1, epochs + 1)]


def test_a_run_of_a_moment_has_system_metrics(study: Study) -> None:
    for run in study.runs.values():
        assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
        assert 0 <= run.data.metrics["system/cpu_utilization_percentage"] <= 100


def test_nan_is_kept_and_infinity_noted(study: Study) -> None:
    run = study.runs["discriminator d0"]
    assert math.isnan(run.data.metrics["undefined"])
    assert "diverged" not in run.data.metrics
    assert run.data.tags["metrics.infinite"] == "diverged from step 1"


def test_parameters_are_flat_and_long_ones_are_whole_in_a_file(study: Study) -> None:
    run = study.runs["discriminator d5"]
    assert run.data.params["network.model_channels"] == "48"
    assert run.data.params["network.channel_mult"] == "[1, 2]"
    assert run.data.params["epochs"] == "5"
    assert run.data.params["note"] == "x" * 5996 + " ..."
    stored = study.client.download_artifacts(run.info.run_id, "params.json")
    assert json.loads(Path(stored).read_text())["note"] == LONG


def test_tags_and_inputs_say_where_a_run_comes_from(study: Study) -> None:
    run = study.runs["discriminator d1"]
    expected = {
        "stage": "discriminator",
        "profile": "mini",
        "member": "d1",
        "dvc.stage": "discriminator@mini-d0",
    }
    assert expected.items() <= run.data.tags.items()
    assert "git.commit" not in run.data.tags
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("real", DIGEST[:36])
    assert {tag.key: tag.value for tag in given.tags}["sha256"] == DIGEST


def test_artifacts_are_copied_below_the_project(study: Study) -> None:
    run = study.runs["discriminator d0"]
    assert Path(study.client.download_artifacts(run.info.run_id, "d0.svg")).read_text() == "<svg/>"
    places = sorted(path.relative_to(study.root).parts[0] for path in study.root.rglob("d0.svg"))
    assert places == ["d0.svg", "mlartifacts"]


def test_registered_models_point_at_the_weights_without_copying(study: Study) -> None:
    for member in EPOCHS:
        (version,) = study.client.search_model_versions(f"name = 'discriminator-mini-{member}'")
        assert version.run_id == study.runs[f"discriminator {member}"].info.run_id
        assert version.tags == {
            "profile": "mini",
            "member": member,
            "weights": f"models/mini/{member}/model.safetensors",
            "weights.sha256": hashlib.sha256(member.encode()).hexdigest(),
        }
    assert len(list(study.root.rglob("*.safetensors"))) == len(EPOCHS)


def test_a_failure_passes_through_and_is_recorded(study: Study) -> None:
    def fail() -> None:
        with tracking.run(study.root, "failures", "score", {}, {}, {}):
            raise ConfigError("a", "b", "c")

    with pytest.raises(ConfigError, match="expected a; got b; c"):
        fail()
    experiment = study.client.get_experiment_by_name("failures")
    (run,) = study.client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_one_refused_artifact_costs_one_warning_and_not_the_rest(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking.run(study.root, "refusals", "score", {}, {}, {}) as recorder:
        recorder.artifact(study.root / "absent.png")
        recorder.metrics(1, {"loss": 2.0})
    (warning,) = caplog.records
    assert "absent.png" in warning.getMessage()
    experiment = study.client.get_experiment_by_name("refusals")
    (run,) = study.client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == 2.0


def test_preparing_again_keeps_the_runs(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    tracking.prepare(study.root)
    assert not caplog.records
    experiment = study.client.get_experiment_by_name("mini")
    assert len(study.client.search_runs([experiment.experiment_id])) == len(EPOCHS)


def test_preparing_a_spoilt_database_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    tracking.prepare(tmp_path)
    (warning,) = caplog.records
    assert "file is not a database" in warning.getMessage()


def test_processes_may_meet_on_a_missing_database(tmp_path: Path) -> None:
    import sqlite3

    number = cases(2, 4)

    # Left behind by a process that was killed while it made the database.
    (tmp_path / "mlflow.db.new").write_bytes(b"half a database")
    commands = [[sys.executable, "-c", PROGRAM, str(tmp_path), f"run {n}"] for n in range(number)]
    log = tmp_path / "watched.txt"
    environment = {**os.environ, "DGUIDE_TRACKING_WAIT_S": GENEROUS_S, **watched(log)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in commands
    ]
    for process in processes:
        assert process.communicate(timeout=180) == (b"done\n", b"")
        assert process.returncode == 0
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT name, status FROM runs ORDER BY name").fetchall() == [
            (f"run {n}", "FINISHED") for n in range(number)
        ]
        assert database.execute("SELECT count(*) FROM metrics WHERE key = 'loss'").fetchone() == (3 * number,)
    assert noted(log) == set(), "MLflow unpickles nothing and starts no shell"


def stored(study: Study, place: Path) -> bytes:
    """A whole database of some runs, put at its place in another folder."""
    (place / "mlflow.db").write_bytes((study.root / "mlflow.db").read_bytes())
    return (place / "mlflow.db").read_bytes()


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_cut_database_costs_one_warning(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: float
) -> None:
    content = stored(study, tmp_path)
    (tmp_path / "mlflow.db").write_bytes(content[: int(kept * len(content))])
    with tracking.run(tmp_path, "mini", "score", {}, {}, {}) as recorder:
        recorder.metrics(1, {"loss": 1.0})
    (warning,) = caplog.records
    assert "malformed" in warning.getMessage()


def test_a_full_disk_under_the_database_costs_one_warning(study: Study, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    private = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    able = subprocess.run([*private, f"mount -t tmpfs none {disk}"], capture_output=True, check=False)
    if able.returncode:
        pytest.skip("this machine cannot mount a small file system: `unshare --mount` failed")
    size = len(stored(study, tmp_path))
    (tmp_path / "program.py").write_text(PROGRAM)
    script = (
        f"mount -t tmpfs -o size={size + 80_000} none {disk} && cp {tmp_path}/mlflow.db {disk} && "
        f"(cat /dev/zero > {disk}/filler 2> /dev/null; {sys.executable} {tmp_path}/program.py {disk} score)"
    )
    environment = {**os.environ, "DGUIDE_TRACKING_WAIT_S": GENEROUS_S}
    done = subprocess.run([*private, script], env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")
    (warning,) = done.stderr.splitlines()
    assert "full" in warning


class TrackingServer(BaseHTTPRequestHandler):
    """A tracking server with a fault."""

    fault: str
    let_go: threading.Event
    asked: ClassVar[list[str]]

    def answer(self) -> None:
        """Do as the fault says."""
        self.asked.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.fault == "silent":
            self.let_go.wait(300)
        known = {"experiments/get-by-name": "experiment", "runs/create": "run"}
        kind = next((value for path, value in known.items() if path in self.path), None)
        if self.fault == "dies" and kind:
            information = {"run_id": "abc", "experiment_id": "1", "artifact_uri": "mlflow-artifacts:/1/abc"}
            body = {"run": {"info": information}, "experiment": {"experiment_id": "1"}}
            self.reply(200, json.dumps({kind: body[kind]}))
        else:
            self.reply(500, "token-in-a-page")

    do_GET = do_POST = do_PATCH = answer

    def reply(self, code: int, text: str) -> None:
        """Send a whole answer."""
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_server(fault: str, asked: list[str] | None = None) -> Iterator[int]:
    """The port of a server with a fault, and what it was asked; `refused` is one that is not there."""
    if fault == "refused":
        with socket.socket() as taken:
            # Bound but not listening: nobody else can take the port, and connections are refused.
            taken.bind(("127.0.0.1", 0))
            yield taken.getsockname()[1]
        return
    let_go = threading.Event()
    handler = type(
        "Handler", (TrackingServer,), {"fault": fault, "let_go": let_go, "asked": [] if asked is None else asked}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        let_go.set()
        server.shutdown()
        server.server_close()


def only_warning(root: Path, environment: dict[str, str]) -> str:
    """What a tracked run says in that environment, which is one line; its work is done all the same."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), "score"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    (warning,) = done.stderr.splitlines()
    return warning


@pytest.mark.parametrize(
    ("fault", "query", "reason"),
    [
        ("refused", "/?token=t0ken", "Connection refused"),
        ("silent", "", "no answer within 3 s"),
        ("dies", "", "too many 500 error responses"),
    ],
)
def test_a_faulty_server_costs_one_warning(tmp_path: Path, fault: str, query: str, reason: str) -> None:
    with faulty_server(fault) as port:
        uri = f"http://anna:s3cret%21@127.0.0.1:{port}{query}"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_TOKEN": "b3arer"}
        if fault == "silent":
            # A user with patience: only the wait of the main thread is left to end this.
            environment |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "300", "DGUIDE_TRACKING_WAIT_S": "3"}
        warning = only_warning(tmp_path, environment)
    assert f"127.0.0.1:{port}" in warning
    assert reason in warning
    assert not any(secret in warning for secret in ("anna", "s3cret", "t0ken", "b3arer"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["postgresql://anna:s3[cret@host/db", "http://[::1"])
def test_what_is_no_address_costs_one_warning(tmp_path: Path, uri: str) -> None:
    warning = only_warning(tmp_path, {**os.environ, "MLFLOW_TRACKING_URI": uri})
    assert "the files are whole" in warning
    assert "s3[cret" not in warning


def test_a_study_meets_a_dead_server_once_and_tries_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def trial() -> int:
        before = len(asked)
        with tracking.run(tmp_path, "mini", "trial", {}, {}, {}) as recorder:
            recorder.metrics(1, {"loss": 1.0})
        return len(asked) - before

    with faulty_server("error 500", asked) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert trial() > 0
        assert [trial() for _ in range(5)] == [0] * 5
        (rest,) = tracking._resting.values()
        assert rest.length_s == tracking.REST_S
        rest.until = 0.0
        assert trial() > 0
        (rest,) = tracking._resting.values()
        assert rest.length_s == 2 * tracking.REST_S
    assert len(caplog.records) == 1


@pytest.mark.skipif(not FULL, reason="two minutes, most of them waiting: make test-full")
@pytest.mark.parametrize("fault", ["silent", "killed"])
def test_a_server_as_it_comes_costs_a_minute_at_most(tmp_path: Path, fault: str) -> None:
    """With MLflow's own server, and the patience that users get."""
    program = PROGRAM.replace("    for step", "    import time\n    print('begun', flush=True)\n    for step").replace(
        "        recorder.metrics(", "        time.sleep(5)\n        recorder.metrics("
    )
    with mlflow_server(tmp_path) as (server, uri):
        work = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), "score"],
            env={**os.environ, "MLFLOW_TRACKING_URI": uri},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert work.stdout is not None
        assert work.stdout.readline() == "begun\n"
        time.sleep(8)
        # Stopped, it accepts connections and never answers.
        os.killpg(server.pid, signal.SIGSTOP if fault == "silent" else signal.SIGKILL)
        told, warnings = work.communicate(timeout=7 + 60)
        os.killpg(server.pid, signal.SIGKILL)
    assert (work.returncode, told) == (0, "done\n")
    assert len(warnings.splitlines()) == 1, warnings
    count(f"MLflow servers that went away: {fault}")


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """MLflow's own server with an empty database, in a process group of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, environment = tracking.ui_command(folder, port)
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(1200):
            assert server.poll() is None
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.1)
        yield server, f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_tracking_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGUIDE_TRACKING", "off")
    tracking.prepare(tmp_path)
    with tracking.run(tmp_path, "mini", "score", {}, {}, {}) as recorder:
        recorder.metrics(1, {"loss": 1.0})
        recorder.artifact(tmp_path / "absent.png")
        recorder.register("score-mini", tmp_path / "absent.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DGUIDE_TRACKING", "maybe"),
        ("DGUIDE_TRACKING_WAIT_S", "soon"),
        ("DGUIDE_TRACKING_WAIT_S", "inf"),
        ("DGUIDE_TRACKING_WAIT_S", "-1"),
    ],
)
def test_impossible_settings_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    def enter() -> None:
        with tracking.run(tmp_path, "mini", "score", {}, {}, {}):
            pytest.fail("the work began")

    with pytest.raises(ConfigError, match=f"{variable}.*; got '{value}'"):
        enter()


def test_runs_of_an_experiment_copy_go_to_the_real_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "abc"
    assert tracking.tracking_uri(copy) == f"sqlite:///{copy}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert tracking.tracking_uri(copy) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    assert tracking.tracking_uri(copy) == "http://tracking.example"


def test_the_ui_shows_the_project_without_showing_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, environment = tracking.ui_command(tmp_path, 5051)
    assert command[1:4] == ["-m", "mlflow", "server"]
    assert command[command.index("--port") + 1] == "5051"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://anna:s3cret@db.example/mlflow")
    command, environment = tracking.ui_command(tmp_path, 5051)
    assert "s3cret" not in " ".join(command)
    assert "s3cret" in environment["MLFLOW_BACKEND_STORE_URI"]


def test_a_server_has_its_own_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://anna:s3cret@tracking.example")
    with pytest.raises(ConfigError, match=r"https://\*\*\*@tracking\.example; open that server in a browser"):
        tracking.ui_command(tmp_path, 5000)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://tracking.example:5000/x", "http://tracking.example:5000/x"),
        ("see http://anna:s3cret@tracking.example/x now", "see http://***@tracking.example/x now"),
        ("http://anna:s3@cret@tracking.example", "http://***@tracking.example"),
        ("http://tracking.example/?token=a&user=b ok", "http://tracking.example/?token=*** ok"),
        ("'postgresql://anna:s3cret@db/mlflow'", "'postgresql://***@db/mlflow'"),
        ("the bearer b3arer was refused", "the bearer *** was refused"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "b3arer")
    assert tracking.redact(text) == shown


def test_importing_tracking_does_not_import_mlflow() -> None:
    program = "import sys, discriminator_guidance.tracking; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
