"""What a run shows and records: progress in the terminal, and a run in MLflow, best effort.

Files are the record; trouble with MLflow costs one warning. Environment: MLFLOW_TRACKING_URI (default: mlflow.db in the
project folder), DGUIDE_TRACKING=off (no tracking).
"""

from __future__ import annotations

import logging
import math
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import HEAVY_HEAD
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from discriminator_guidance.files import reason, sha256
from discriminator_guidance.runtime import is_first, local_rank

# Without a terminal, where a bar would fill a log and lines are as long as they have to be.
LINE_EVERY_S, PLAIN_WIDTH = 10.0, 10_000


@contextmanager
def bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error; yields a function to be called with the number of units just done."""
    console = Console(stderr=True, quiet=not is_first() or local_rank() > 0)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TimeRemainingColumn())
    shown = Progress(
        TextColumn("{task.description}", markup=False), *columns, console=console, disable=not console.is_terminal
    )
    shown.add_task(description, total=total)
    (task,) = shown.tasks
    start = said = time.monotonic()

    def advance(count: int) -> None:
        nonlocal said
        shown.advance(task.id, count)
        now = time.monotonic()
        if shown.disable and now - said >= LINE_EVERY_S:
            said = now
            left = (now - start) / max(task.completed, 1) * (total - task.completed)
            _print(console, f"{description}: {task.completed:.0f}/{total} {unit}, {left:.0f} s left")

    with shown:
        yield advance
    if shown.disable and (took := time.monotonic() - start) >= 1:
        _print(console, f"{description}: {task.completed:.0f}/{total} {unit} in {took:.0f} s")


def table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print results as a table on standard output; plain aligned columns where there is no terminal."""
    console = Console()
    shown = Table(box=HEAVY_HEAD)
    if not console.is_terminal:
        shown.box, console.width = None, PLAIN_WIDTH
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        shown.add_column(Text(column))
    for row in rows:
        shown.add_row(*(Text(_shown(row.get(column, ""))) for column in columns))
    console.print(Group(Text(title), shown))  # in one write: other processes print too


def notice(message: str, kind: str = "note") -> None:
    """Print one line on standard error."""
    _print(Console(stderr=True), f"{kind}: {message}")


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


CODE = ("src", "dvc.yaml")  # what results depend on beside settings, whose hash tells of edits
LIBRARIES = ("torch", "torch-fidelity", "numpy", "scipy", "pandas", "matplotlib")
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
MODEL = (
    "The weights are in DVC, at the path in tag `weights`. Alias `best` has the smallest validation loss. "
    "In the project folder, `mlflow.pyfunc.load_model` loads a discriminator."
)


def _best_effort(method: Callable[..., None]) -> Callable[..., None]:
    """Do nothing without MLflow; after the first failure warn and do without it."""

    @wraps(method)
    def guarded(self: Tracker, *args: Any) -> None:
        if self._on:
            try:
                method(self, *args)
            except Exception as error:
                self._on = False
                _warn(error)

    return guarded


class Tracker:
    """One run in MLflow, or nothing."""

    def __init__(self, on: bool = False) -> None:
        self.run_id, self.status = "", "FINISHED"
        self._on, self._curves = on, set[str]()
        self._mlflow: Any = None

    @_best_effort
    def start(self, experiment: str, name: str, tags: Mapping[str, str], parent: str | None) -> None:
        """Open the run, in an experiment that is created if need be."""
        self._mlflow, project = _connected(), _project()
        local = self._mlflow.get_tracking_uri().startswith("sqlite:")
        folder = (project / "mlartifacts").as_uri() if local else None
        found = self._mlflow.get_experiment_by_name(experiment)
        identifier = found.experiment_id if found else self._mlflow.create_experiment(experiment, folder)
        commit, revision = git(project, "rev-parse", "HEAD"), os.environ.get("DVC_EXP_NAME", "")
        if tags.get("stage", "study") != "study":
            parent = self._pipeline(identifier, revision or commit[:7] or "without git")
        active = self._mlflow.start_run(
            experiment_id=identifier, run_name=name, parent_run_id=parent,
            tags={**tags, "mlflow.source.git.commit": commit, "dvc.experiment": revision},
            nested=self._mlflow.active_run() is not None, log_system_metrics="trial" not in tags,
        )  # fmt: skip
        self.run_id = active.info.run_id

    def _pipeline(self, experiment: str, revision: str) -> str:
        """The run in which those of all stages of one commit or DVC experiment are nested; the first stage makes it."""
        client, name = self._mlflow.MlflowClient(), f"pipeline/{revision}"
        if found := client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1):
            return str(found[0].info.run_id)
        tags = {"stage": "pipeline", "mlflow.note.content": "the stages of one commit or DVC experiment"}
        made = str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        client.set_terminated(made)
        return made

    @_best_effort
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point of each curve, asynchronously."""
        self._curves |= values.keys()
        self._mlflow.log_metrics(_finite(values), step=step, synchronous=False, run_id=self.run_id)

    @_best_effort
    def summary(self, values: Mapping[str, Any]) -> None:
        """Log final numbers, but for those that end a curve."""
        final = {key: value for key, value in values.items() if key not in self._curves}
        self._mlflow.log_metrics(_finite(final), run_id=self.run_id)

    @_best_effort
    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; nested mappings get dotted names."""
        self._mlflow.log_params(_flat(values), run_id=self.run_id)

    @_best_effort
    def inputs(self, files: Mapping[str, Path]) -> None:
        """Log the image sets that the run reads, by name: path, shape, SHA-256."""
        for name, path in files.items():
            if path.is_file():
                digest, images = sha256(path), np.load(path, allow_pickle=False)["images"]
                with warnings.catch_warnings(action="ignore"):  # MLflow knows a local path by two names
                    data = self._mlflow.data.from_numpy(images, source=str(path), name=name, digest=digest[:36])
                self._mlflow.log_input(data, tags={"sha256": digest})

    @_best_effort
    def artifact(self, path: Path) -> None:
        """Attach a copy of a small file."""
        self._mlflow.log_artifact(str(path), run_id=self.run_id)

    @_best_effort
    def model(self, name: str, weights: Path, loss: float | None = None) -> None:
        """Register weights, which stay where DVC keeps them, as a new version.

        With a loss they are a discriminator's: a model that `mlflow.pyfunc` loads, and `best` is set again.
        """
        path, client = os.path.relpath(weights), self._mlflow.MlflowClient()
        tags = {"weights": path, "weights.sha256": sha256(weights), "validation_loss": str(loss)}
        if loss is None:
            model = self._mlflow.create_external_model(name=name, source_run_id=self.run_id, tags=tags).model_id
        else:
            loader, config = Path(__file__).with_name("model.py"), {"folder": str(Path(path).parent)}
            model = self._mlflow.pyfunc.log_model(
                name=name, python_model=str(loader), model_config=config, tags=tags,
                pip_requirements=["discriminator-guidance"],
            ).model_id  # fmt: skip
        with suppress(self._mlflow.MlflowException):  # it exists
            client.create_registered_model(name, description=MODEL)
        client.create_model_version(name, f"models:/{model}", self.run_id, tags, description=path, model_id=model)
        if loss is not None:
            versions = client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
            newest = {version.tags["weights"]: version for version in versions}  # DVC keeps one file at a path
            best = min(newest.values(), key=lambda version: float(version.tags["validation_loss"]))
            client.set_registered_model_alias(name, "best", best.version)

    @_best_effort
    def row(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Record a finished run of its own inside this one: a variant among those that a stage evaluates."""
        experiment = self._mlflow.active_run().info.experiment_id
        with self._mlflow.start_run(experiment_id=experiment, run_name=name, nested=True, tags=dict(tags)):
            self._mlflow.log_params(_flat(params))
            self._mlflow.log_metrics(_finite(metrics))

    @_best_effort
    def end(self) -> None:
        """Deliver what is queued and close the run."""
        self._mlflow.end_run(self.status)


@contextmanager
def run(
    experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
) -> Iterator[Tracker]:
    """Track the enclosed work as one run, nested in the run `parent` if given.

    Its status is FINISHED, or what the work sets; FAILED after an exception, KILLED after an interruption.
    """
    tracker = Tracker(_wanted())
    tracker.start(experiment, name, tags, parent)
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
    runs: list[Any] = []
    try:
        if _wanted():
            runs = _connected().search_runs(
                experiment_names=[experiment], filter_string="attributes.status = 'FINISHED'",
                order_by=["attributes.start_time ASC"], output_format="list",
            )  # fmt: skip
    except Exception as error:
        _warn(error)
    return {run.info.run_name: (run.info.end_time - run.info.start_time) / 1000 for run in runs}


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


def provenance(root: Path) -> dict[str, Any]:
    """The commit, the machine and the versions that results come from: for MLflow and files that git ignores."""
    commit = git(root, "rev-parse", "HEAD")
    return {
        "commit": commit or "not a git checkout",
        "uncommitted changes": bool(git(root, "status", "--porcelain", "--", *CODE)) if commit else "unknown",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in LIBRARIES if find_spec(name.replace("-", "_"))},
    }


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
    return os.environ.get("DGUIDE_TRACKING") != "off" and is_first()


def _warn(error: Exception) -> None:
    notice(f"not tracked in MLflow ({reason(error)}); files are complete, nothing else depends on it")


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if type(value) in (int, float) and math.isfinite(value)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": shown}
    return flat
