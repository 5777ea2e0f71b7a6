"""MLflow, best effort: files are the record, and trouble with MLflow costs one warning.

Environment: MLFLOW_TRACKING_URI (default: mlflow.db in the project folder), DGUIDE_TRACKING=off (no tracking).
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from discriminator_guidance import distributed, progress
from discriminator_guidance.data.files import sha256

# Set unless the user did. MLflow's own defaults wait four minutes for a dead server.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def _best_effort(method: Callable[..., None]) -> Callable[..., None]:
    """Do nothing without MLflow; after the first failure warn and do without it."""

    @wraps(method)
    def guarded(self: Tracker, *args: Any, **kwargs: Any) -> None:
        if self._mlflow is None:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self._mlflow = None
            _warn(error)

    return guarded


class Tracker:
    """One run in MLflow, or nothing."""

    def __init__(self, mlflow: Any = None, run_id: str = "") -> None:
        self.run_id, self.status = run_id, "FINISHED"
        self._mlflow, self._curves = mlflow, set[str]()

    @_best_effort
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point of each curve, asynchronously."""
        self._curves |= values.keys()
        self._mlflow.log_metrics(_finite(values), step=step, synchronous=False, run_id=self.run_id)

    @_best_effort
    def summary(self, values: Mapping[str, Any]) -> None:
        """Log final numbers, but for those that end a curve."""
        self._mlflow.log_metrics(
            _finite({k: v for k, v in values.items() if k not in self._curves}), run_id=self.run_id
        )

    @_best_effort
    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; nested mappings get dotted names."""
        entries = [self._mlflow.entities.Param(key, value[:6000]) for key, value in _flat(values).items()]
        for start in range(0, len(entries), 100):  # MLflow's limit for one request
            self._mlflow.MlflowClient().log_batch(self.run_id, params=entries[start : start + 100])

    @_best_effort
    def inputs(self, files: Mapping[str, Path]) -> None:
        """Log the data sets that the run reads, by name, with their SHA-256."""
        entities = self._mlflow.entities
        found = {name: (path, sha256(path)) for name, path in files.items() if path.is_file()}
        sets = [
            entities.DatasetInput(
                entities.Dataset(name, digest[:36], "local", json.dumps({"uri": str(path)})),
                [entities.InputTag("sha256", digest)],
            )
            for name, (path, digest) in found.items()
        ]
        self._mlflow.MlflowClient().log_inputs(self.run_id, sets)

    @_best_effort
    def artifact(self, path: Path) -> None:
        """Attach a copy of a small file."""
        self._mlflow.log_artifact(str(path), run_id=self.run_id)

    @_best_effort
    def model(self, name: str, weights: Path) -> None:
        """Register weights, which stay where DVC keeps them, as a new version of a model."""
        tags = {"weights": str(weights), "weights.sha256": sha256(weights)}
        client = self._mlflow.MlflowClient()
        logged = self._mlflow.create_external_model(name=name, source_run_id=self.run_id, tags=tags)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"models:/{logged.model_id}"
        client.create_model_version(name, source, run_id=self.run_id, tags=tags, model_id=logged.model_id)

    @_best_effort
    def end(self) -> None:
        """Deliver what is queued and close the run."""
        if (active := self._mlflow.active_run()) and active.info.run_id == self.run_id:
            self._mlflow.end_run(self.status)
        else:
            self._mlflow.MlflowClient().set_terminated(self.run_id, self.status)


@contextmanager
def run(
    experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
) -> Iterator[Tracker]:
    """Track the enclosed work as one run, nested in the run `parent` if given.

    Its status is FINISHED, or what the work sets; FAILED after an exception, KILLED after an interruption.
    """
    tracker = Tracker()
    if _wanted():
        try:
            tracker = _started(experiment, name, tags, parent)
        except Exception as error:
            _warn(error)
    tracker.params(params)
    try:
        yield tracker
    except BaseException as error:
        tracker.status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        tracker.end()


def recorded_seconds(experiment: str) -> dict[str, float]:
    """The duration of the last finished run of each name; empty where nothing was tracked."""
    if not _wanted():
        return {}
    try:
        mlflow = _connected()
        if not mlflow.get_experiment_by_name(experiment):
            return {}
        runs = mlflow.search_runs(
            experiment_names=[experiment], filter_string="attributes.status = 'FINISHED'",
            order_by=["attributes.start_time ASC"], output_format="list",
        )  # fmt: skip
    except Exception as error:
        _warn(error)
        return {}
    return {run.info.run_name: (run.info.end_time - run.info.start_time) / 1000 for run in runs}


def git_state(root: Path) -> dict[str, str]:
    """Commit and uncommitted changes of a checkout; empty without git."""
    commit, changes = git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain")
    return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()} if commit else {}


def git(root: Path, *arguments: str) -> str:
    """The output of git for a project folder; empty where it is not a checkout of its own."""
    if not (root / ".git").exists():
        return ""  # an archive unpacked inside another repository must not claim that repository's commit
    # Hooks export GIT_DIR and its kin, which would make git answer for another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _started(experiment: str, name: str, tags: Mapping[str, str], parent: str | None) -> Tracker:
    mlflow = _connected()
    if (found := mlflow.get_experiment_by_name(experiment)) is not None:
        identifier = found.experiment_id
    else:
        folder = _project() / "mlartifacts"
        local = mlflow.get_tracking_uri().startswith("sqlite:")
        identifier = mlflow.create_experiment(experiment, folder.as_uri() if local else None)
    state = git_state(_project())
    dvc = {"dvc.stage": os.environ["DVC_STAGE"]} if "DVC_STAGE" in os.environ else {}
    if (lock := _project() / "dvc.lock").is_file():
        dvc["dvc.lock.sha256"] = sha256(lock)
    commit = {"mlflow.source.git.commit": state["git.commit"]} if state else {}
    active = mlflow.start_run(
        experiment_id=identifier, run_name=name, tags={**state, **commit, **dvc, **tags}, parent_run_id=parent,
        nested=mlflow.active_run() is not None, log_system_metrics=parent is None,
    )  # fmt: skip
    return Tracker(mlflow, active.info.run_id)


def _connected() -> Any:
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    import mlflow

    for logger in ("mlflow", "alembic", "urllib3"):  # one warning says what went wrong
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_project() / 'mlflow.db'}")
    return mlflow


def _project() -> Path:
    """The project folder; of a DVC experiment in a temporary copy, the real one."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def _wanted() -> bool:
    return os.environ.get("DGUIDE_TRACKING") != "off" and distributed.is_first()


def _warn(error: Exception) -> None:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    progress.notice(f"not tracked in MLflow ({reason}); files are complete, nothing else depends on it")


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if type(value) in (int, float) and math.isfinite(value)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat
