"""MLflow, best effort: the files of a stage are the record, a run in MLflow is a convenience.

Everything that touches MLflow, its import included, happens on a thread the computation does not wait for.

Environment:
    MLFLOW_TRACKING_URI: where runs go; without it a SQLite file `mlflow.db` in the project folder.
    DGUIDE_TRACKING: `off` disables tracking.
    DGUIDE_TRACKING_WAIT_S: longest wait for MLflow at the end of a run (seconds, default 30).
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL: seconds between samples of CPU, memory, disk and GPU (default 5).
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.imports import uncollected
from discriminator_guidance.provenance import provenance
from discriminator_guidance.recorder import Metrics, Model, Recorder, Worker
from discriminator_guidance.redaction import redact as hide

log = logging.getLogger(__name__)

# Importing MLflow and making its database takes 3 s on two idle cores, 14 s on two busy ones.
WAIT_S = 30.0
SAMPLING_INTERVAL_S = 5.0
# A study tracks each trial: one that met a dead server keeps the next from waiting for it, at first for so long, then
# for twice as long.
REST_S = 60.0
# MLflow's own limits: characters of a parameter's value and of a dataset's digest, entries of one batch.
PARAM_LENGTH = 6000
DIGEST_LENGTH = 36
BATCH_PARAMS = 100
BATCH_METRICS = 1000
# Set unless the user did: MLflow's own are seven retries with two minutes of patience each.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass
class _Rest:
    """How long a store that is down is left alone."""

    length_s: float
    until: float  # on the monotonic clock


_resting: dict[str, _Rest] = {}  # by address, in this process


@contextmanager
def run(
    root: Path,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, object],
    inputs: Mapping[str, str],
) -> Iterator[Recorder]:
    """Track the enclosed work as one flat MLflow run; trouble with MLflow costs one warning.

    After a server that is down, later runs of this process go untracked and unwarned for a while.

    Args:
        root: the project folder.
        experiment: which experiment the run belongs to.
        name: what the run is called, e.g. `discriminator d0`.
        tags: stage, profile, member or variant; commit and DVC state are added here.
        params: settings; nested mappings become dotted names.
        inputs: SHA-256 digest (hexadecimal) of each dataset, by name.

    Yields:
        The recorder. An exception passes through and ends the run as FAILED, an interruption as KILLED.

    Raises:
        ConfigError: DGUIDE_TRACKING or DGUIDE_TRACKING_WAIT_S is not what it can be.
    """
    wait_s, uri = _wait_s(), tracking_uri(root)
    rest = _resting.get(uri)
    if _disabled() or (rest and time.monotonic() < rest.until):
        yield Recorder(None)
        return
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    plan = _Plan(root.resolve(), uri, experiment, name, dict(tags), flatten(params), dict(inputs), _now_ms())
    worker = Worker(lambda: _MlflowRun(plan))
    worker.start()
    status = "FAILED"
    try:
        yield Recorder(worker.events)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        delivered = worker.finish(status, wait_s)
        if worker.gave_up:
            length_s = 2 * rest.length_s if rest else REST_S
            _resting[uri] = _Rest(length_s, time.monotonic() + length_s)
        else:
            _resting.pop(uri, None)
        if not delivered and not (worker.gave_up and rest):
            why = _reason(worker.problem) if worker.problem else f"no answer within {wait_s:g} s"
            log.warning("MLflow at %s misses some of '%s' (%s); the files are whole", redact(uri), name, why)


def tracking_uri(root: Path) -> str:
    """Say where runs go.

    Args:
        root: the project folder; DVC_ROOT, the real one of a DVC experiment's temporary copy, comes first.

    Returns:
        MLFLOW_TRACKING_URI, or the SQLite file in the project folder.
    """
    home = Path(os.environ.get("DVC_ROOT") or root).resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"


def prepare(root: Path) -> None:
    """Create the SQLite store or bring an old one up to date; any number of processes may do so at once.

    Args:
        root: the project folder.

    Raises:
        ConfigError: DGUIDE_TRACKING is not what it can be.
    """
    if _disabled():
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = tracking_uri(root)
    try:
        _prepare_store(uri)
    except Exception as error:
        log.warning("MLflow at %s is not ready (%s); nothing else depends on it", redact(uri), _reason(error))


def ui_command(root: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Say how to open the tracking UI.

    Args:
        root: the project folder.
        port: where it listens on this machine.

    Returns:
        The command line and the environment to run it in; runs are compared at
        `http://127.0.0.1:<port>/#/experiments?workflowType=machine_learning`.

    Raises:
        ConfigError: runs go to a server, which has a UI of its own.
    """
    uri = tracking_uri(root)
    if uri.startswith(("http:", "https:")):
        raise ConfigError("a database in MLFLOW_TRACKING_URI", redact(uri), "open that server in a browser")
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--workers", "1"]
    if location := _artifact_folder(uri):
        argv += ["--artifacts-destination", str(location)]
    # The database's address goes through the environment: everybody can read the password on a command line.
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return argv, environment


def open_store(root: Path) -> Any | None:
    """A client of the store that runs go to, for reading; nothing is made that is not there.

    Args:
        root: the project folder.

    Returns:
        An MlflowClient, or None where there is no database yet.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    uri = tracking_uri(root)
    if (database := _database(uri)) is not None and not database.is_file():
        return None
    import mlflow

    return mlflow.MlflowClient(uri)


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Settings as MLflow keeps them.

    Args:
        params: settings; nested mappings become dotted names.
        prefix: before every name.

    Returns:
        Values as text, by name; lists as JSON.
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | tuple) else str(value)
    return flat


def redact(text: str) -> str:
    """Hide the secrets of an address, or of a message that quotes one.

    Args:
        text: anything that is to be shown.

    Returns:
        The text with user information, query values and MLflow's credentials replaced by `***`.
    """
    secrets = [os.environ.get(f"MLFLOW_TRACKING_{kind}") for kind in ("PASSWORD", "TOKEN")]
    try:
        password = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).password
    except ValueError:  # no address at all, such as http://[::1
        password = None
    if password:
        secrets += [password, unquote(password)]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return hide(text)


@dataclass(frozen=True)
class _Plan:
    root: Path
    uri: str
    experiment: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    inputs: dict[str, str]
    started_ms: int


class _MlflowRun:
    """One open run; a `recorder.Service`."""

    def __init__(self, plan: _Plan) -> None:
        with uncollected("mlflow"):
            import mlflow.db

        _prepare_store(plan.uri)
        self._mlflow, self._uri, self._root = mlflow, plan.uri, plan.root
        self._client = mlflow.MlflowClient(plan.uri)
        self._experiment_id = self._experiment(plan.experiment.replace("/", "-"))
        tags = {**provenance(plan.root), **plan.tags}
        if "git.commit" in tags:
            # MLflow shows this one in a column, but hides it from the list of tags.
            tags["mlflow.source.git.commit"] = tags["git.commit"]
        # MLflow is imported while the work goes on; the run's duration is that of the work.
        created = self._client.create_run(
            self._experiment_id, start_time=plan.started_ms, tags=tags, run_name=plan.name
        )
        self._run_id: str = created.info.run_id
        self._infinite: dict[str, int] = {}
        self._samples = 0
        self._monitor = self._system_monitor()
        self.sampling_interval = max(0.1, float(getattr(self._monitor, "sampling_interval", 3600)))
        self._log_params(plan.params)
        self._log_inputs(plan.inputs)

    def log_metrics(self, batch: Sequence[Metrics]) -> None:
        points = []
        for entry in batch:
            for key, value in entry.values.items():
                # MLflow keeps NaN as such, but stores an infinity as 1.8e308, which ruins every chart.
                if math.isinf(value):
                    self._infinite.setdefault(key, entry.step)
                else:
                    points.append(self._mlflow.entities.Metric(_key(key), value, entry.time_ms, entry.step))
        for start in range(0, len(points), BATCH_METRICS):
            self._client.log_batch(self._run_id, metrics=points[start : start + BATCH_METRICS])

    def log_artifact(self, path: Path) -> None:
        self._client.log_artifact(self._run_id, str(path))

    def register(self, model: Model) -> None:
        weights = Path(os.path.relpath(model.weights.resolve(), self._root)).as_posix()
        tags = {**model.tags, "weights": weights, "weights.sha256": sha256(model.weights)}
        # The registry looks a logged model up at MLflow's global address, kept in the environment too.
        borrowed = "MLFLOW_TRACKING_URI" not in os.environ
        self._mlflow.set_tracking_uri(self._uri)
        try:
            logged = self._mlflow.create_external_model(
                name=model.name, source_run_id=self._run_id, experiment_id=self._experiment_id, tags=tags
            )
            try:
                self._client.create_registered_model(model.name)
            except self._mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            self._client.create_model_version(
                model.name,
                source=f"models:/{logged.model_id}",
                run_id=self._run_id,
                tags=tags,
                description=f"Weights under DVC: {weights}",
                model_id=logged.model_id,
            )
        finally:
            if borrowed:
                os.environ.pop("MLFLOW_TRACKING_URI", None)

    def sample(self) -> None:
        if self._monitor is None:
            return
        try:
            self._monitor.collect_metrics()
            load = self._monitor.aggregate_metrics()
            for part in self._monitor.monitors:
                part.clear_metrics()
        except Exception:
            # A machine that does not tell its load is nothing to warn about.
            self._monitor = None
            return
        values = {f"system/{key}": float(value) for key, value in load.items()}
        self.log_metrics([Metrics(self._samples, values, _now_ms())])
        self._samples += 1

    def end(self, status: str, time_ms: int) -> None:
        if self._infinite:
            note = ", ".join(f"{key} from step {step}" for key, step in self._infinite.items())
            self._client.set_tag(self._run_id, "metrics.infinite", note)
        self._client.set_terminated(self._run_id, status, time_ms)

    def _experiment(self, name: str) -> str:
        if (found := self._client.get_experiment_by_name(name)) is None:
            location = _artifact_folder(self._uri)
            try:
                created: str = self._client.create_experiment(name, location.as_uri() if location else None)
                return created
            except self._mlflow.MlflowException:
                # Another process was faster.
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        identifier: str = found.experiment_id
        return identifier

    def _log_params(self, params: dict[str, str]) -> None:
        entries = []
        for key, value in params.items():
            shown = value if len(value) <= PARAM_LENGTH else value[: PARAM_LENGTH - 4] + " ..."
            entries.append(self._mlflow.entities.Param(_key(key), shown))
        for start in range(0, len(entries), BATCH_PARAMS):
            self._client.log_batch(self._run_id, params=entries[start : start + BATCH_PARAMS])
        if any(len(value) > PARAM_LENGTH for value in params.values()):
            self._client.log_dict(self._run_id, params, "params.json")

    def _log_inputs(self, inputs: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if inputs:
            self._client.log_inputs(
                self._run_id,
                [
                    DatasetInput(
                        Dataset(name, digest[:DIGEST_LENGTH], "local", json.dumps({"uri": name})),
                        [InputTag("sha256", digest)],
                    )
                    for name, digest in inputs.items()
                ],
            )

    def _system_monitor(self) -> Any | None:
        # Read from this thread, not from MLflow's: that publishes nothing of a run shorter than its interval.
        try:
            from mlflow.system_metrics import system_metrics_monitor

            monitor: Any = system_metrics_monitor.SystemMetricsMonitor
            return monitor(self._run_id, SAMPLING_INTERVAL_S, tracking_uri=self._uri)
        except Exception:
            return None


def _prepare_store(uri: str) -> None:
    import mlflow.db
    from filelock import FileLock

    upgrade: Any = mlflow.db.upgrade.callback
    # One line at the end says what went wrong; until then retries and migrations are nobody's concern.
    for logger in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    if (database := _database(uri)) is None:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=120):
        if database.exists():
            upgrade(f"sqlite:///{database}")
        else:
            # Under another name until it is complete, so that nobody meets, or is left with, half a database.
            unfinished = database.with_name(f"{database.name}.new")
            unfinished.unlink(missing_ok=True)
            upgrade(f"sqlite:///{unfinished}")
            unfinished.replace(database)


def _database(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path).absolute() if uri.startswith("sqlite:///") and path else None


def _artifact_folder(uri: str) -> Path | None:
    database = _database(uri)
    return database.parent / "mlartifacts" if database else None


def _disabled() -> bool:
    choice = os.environ.get("DGUIDE_TRACKING") or "on"
    if choice not in {"on", "off"}:
        raise ConfigError("DGUIDE_TRACKING on or off", repr(choice), "set it to one of them or unset it")
    return choice == "off"


def _wait_s() -> float:
    text = os.environ.get("DGUIDE_TRACKING_WAIT_S") or str(WAIT_S)
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = math.nan
    if not 0 <= wait_s <= 3600:
        raise ConfigError("0 to 3600 seconds in DGUIDE_TRACKING_WAIT_S", repr(text), "mend it or unset it")
    return wait_s


def _reason(error: Exception) -> str:
    text = redact(" ".join(str(error).split())) or type(error).__name__
    # requests wraps what happened in what it tried: (Caused by ReadTimeoutError("Pool(...): Read timed out"))
    if found := re.search(r"Caused by \w+\(['\"]?(?:.*\): )?(.*?)['\"]?\)+$", text):
        text = found[1]
    return text if len(text) <= 240 else f"{text[:160]} ... {text[-75:]}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


if __name__ == "__main__":
    prepare(Path.cwd())
