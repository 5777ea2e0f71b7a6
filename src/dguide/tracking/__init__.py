"""What a run shows and records: progress in the terminal, and a run in MLflow, best effort.

Files are the record. A process of its own talks to MLflow (`record`): it takes no time from the work, cannot stop it,
and closes the run however the work ends. Environment: MLFLOW_TRACKING_URI (default: mlflow.db in the project folder),
DGUIDE_TRACKING=off (no tracking).
"""

from __future__ import annotations

import gc
import getpass
import json
import logging
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, wraps
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
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
def bar(description: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show progress on standard error; yields a function to be called with the number of units just done.

    The time left follows from the speed of this process: `done` units, and those that it is told are `resumed`, were
    done by an earlier one.
    """
    console = Console(stderr=True, quiet=not is_first() or local_rank() > 0)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TimeRemainingColumn())
    shown = Progress(
        TextColumn("{task.description}", markup=False), *columns, console=console, disable=not console.is_terminal
    )
    shown.add_task(description, total=total, completed=done)
    (task,) = shown.tasks
    start = said = time.monotonic()

    def advance(count: int, resumed: bool = False) -> None:
        nonlocal said, done
        if resumed:
            done += count
            task.completed += count  # `shown.advance` would take it for speed
        else:
            shown.advance(task.id, count)
        now = time.monotonic()
        if shown.disable and now - said >= LINE_EVERY_S:
            said = now
            left = (now - start) / max(task.completed - done, 1) * (total - task.completed)
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
PATIENCE_S = 30.0  # with MLflow, when the work is done; its own limits are shorter
# Of the recorder, unless the user set them. MLflow's own defaults wait four minutes for a dead server.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "5",
}
PARENT, COMMIT = "mlflow.parentRunId", "mlflow.source.git.commit"
MODEL = (
    "The weights are in DVC, at the path in tag `weights`. Alias `best` has the smallest validation loss. "
    "In the project folder, `mlflow.pyfunc.load_model` loads a discriminator."
)

_recorder: subprocess.Popen[str] | None = None  # of this command
_used = False  # whether the recorder was sent anything


def _recorded(method: Callable[..., None]) -> Callable[..., None]:
    """Let the recorder carry out a method, which the work only sends."""

    @wraps(method)
    def carried_out(self: Tracker, *arguments: Any) -> None:
        if self.mlflow is not None:
            method(self, *arguments)
        elif _recorder is not None and _recorder.stdin is not None:
            global _used
            _used = True
            with suppress(OSError):  # it has warned and ended
                _recorder.stdin.write(json.dumps([method.__name__, *arguments], default=str) + "\n")
                _recorder.stdin.flush()

    return carried_out


class Tracker:
    """The run in MLflow that was opened last, or nothing."""

    def __init__(self, experiment: str, mlflow: Any = None) -> None:
        self.experiment, self.status, self.mlflow = experiment, "FINISHED", mlflow
        self._curves, self._points = set[tuple[str, str]](), list[Any]()

    @property
    def _run(self) -> Any:
        return self.mlflow.active_run().info

    @_recorded
    def start(self, experiment: str, name: str, tags: dict[str, str]) -> None:
        """Open a run in the one that is open, a stage's in that of its commit; create the experiment if need be."""
        client, outer = self.mlflow.MlflowClient(), self.mlflow.active_run()
        folder = (_project() / "mlartifacts").as_uri() if self.mlflow.get_tracking_uri().startswith("sqlite") else None
        stored = client.get_experiment_by_name(experiment)
        identifier = stored.experiment_id if stored else client.create_experiment(experiment, folder)
        if outer is not None:
            tags[PARENT] = outer.info.run_id
        elif tags.get("stage", "study") != "study":
            tags[PARENT] = self._pipeline(identifier, tags["dvc.experiment"] or tags[COMMIT][:7] or "without git")
        # MLflow's `start_run` would look for git, notebooks and clusters, which takes a while.
        run = client.create_run(identifier, run_name=name, tags={"mlflow.user": getpass.getuser(), **tags})
        self.mlflow.start_run(run.info.run_id, nested=True, log_system_metrics=outer is None)

    def _pipeline(self, experiment: str, revision: str) -> str:
        """The run in which those of all stages of one commit or DVC experiment are nested; the first stage makes it."""
        client, name = self.mlflow.MlflowClient(), f"pipeline/{revision}"
        if made := client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1):
            return str(made[0].info.run_id)
        tags = {"stage": "pipeline", "mlflow.note.content": "the stages of one commit or DVC experiment"}
        identifier = str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        client.set_terminated(identifier)
        return identifier

    @_recorded
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point of each curve."""
        self._curves |= {(self._run.run_id, key) for key in values}
        self._points.append(self.mlflow.log_metrics(_finite(values), step=step, synchronous=False))

    @_recorded
    def summary(self, values: Mapping[str, Any]) -> None:
        """Log final numbers, but for those that end a curve."""
        final = {key: value for key, value in values.items() if (self._run.run_id, key) not in self._curves}
        self.mlflow.log_metrics(_finite(final))

    @_recorded
    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; nested mappings get dotted names."""
        self.mlflow.log_params(_flat(values))

    @_recorded
    def inputs(self, files: Mapping[str, Path]) -> None:
        """Log the image sets that the run reads, by name: path, shape, SHA-256."""
        for name, path in files.items():
            if Path(path).is_file():
                digest, images = sha256(Path(path)), np.load(path, allow_pickle=False)["images"]
                data = self.mlflow.data.from_numpy(images, source=str(path), name=name, digest=digest[:36])
                self.mlflow.log_input(data, tags={"sha256": digest})

    @_recorded
    def artifact(self, path: Path) -> None:
        """Attach a copy of a small file."""
        self.mlflow.log_artifact(path)

    @_recorded
    def model(self, name: str, weights: Path, loss: float | None = None) -> None:
        """Register weights, which stay where DVC keeps them, as a new version.

        With a loss they are a discriminator's: a model that `mlflow.pyfunc` loads, and `best` is set again.
        """
        path, client, run_id = (
            os.path.relpath(weights),
            self.mlflow.MlflowClient(),
            self.mlflow.active_run().info.run_id,
        )
        tags = {"weights": path, "weights.sha256": sha256(Path(path)), "validation_loss": str(loss)}
        if loss is None:
            model = self.mlflow.create_external_model(name=name, source_run_id=run_id, tags=tags).model_id
        else:
            loader, config = Path(__file__).with_name("model.py"), {"folder": str(Path(path).parent)}
            model = self.mlflow.pyfunc.log_model(
                name=name, python_model=str(loader), model_config=config, tags=tags,
                pip_requirements=["discriminator-guidance"],
            ).model_id  # fmt: skip
        with suppress(self.mlflow.MlflowException):  # it exists
            client.create_registered_model(name, description=MODEL)
        client.create_model_version(name, f"models:/{model}", run_id, tags, description=path, model_id=model)
        if loss is not None:
            versions = client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
            newest = {version.tags["weights"]: version for version in versions}  # DVC keeps one file at a path
            best = min(newest.values(), key=lambda version: float(version.tags["validation_loss"]))
            client.set_registered_model_alias(name, "best", best.version)

    def row(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Record a finished run, of one of the rows that a stage computes together."""
        with run(self.experiment, name, tags, params) as tracker:
            tracker.summary(metrics)

    @_recorded
    def end(self, status: str) -> None:
        """Deliver what is on its way and close the run; a finished one replaces those of its name in its pipeline."""
        run, points, self._points = self.mlflow.active_run(), self._points, []
        self.mlflow.end_run(status)
        if status == "FINISHED" and run.data.tags.get("stage", "study") != "study":
            name, parent = run.info.run_name, run.data.tags[PARENT]
            self._delete(f"attributes.run_name = '{name}' AND tags.`{PARENT}` = '{parent}'", run)
        for point in points:
            point.wait()

    def _delete(self, which: str, last: Any) -> None:
        """Delete the runs before the last one, and those in them; MLflow can restore them."""
        for earlier in self.mlflow.MlflowClient().search_runs([last.info.experiment_id], which):
            if earlier.info.run_id != last.info.run_id:
                self._delete(f"tags.`{PARENT}` = '{earlier.info.run_id}'", last)
                self.mlflow.delete_run(earlier.info.run_id)


@contextmanager
def run(experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Iterator[Tracker]:
    """Track the enclosed work as one run, nested in the run around it, if any.

    Its status is FINISHED, or what the work sets; FAILED after an exception, KILLED after an interruption.
    """
    with recording():
        tracker = Tracker(experiment)
        tracker.start(experiment, name, {**tags, **_origin(_project())})
        tracker.params(params)
        try:
            yield tracker
        except BaseException as error:
            tracker.status = "FAILED" if isinstance(error, Exception) else "KILLED"
            raise
        finally:
            tracker.end(tracker.status)


@contextmanager
def recording() -> Iterator[None]:
    """Start the recorder, which is ready after some seconds, and wait in the end until it has delivered everything."""
    global _recorder, _used
    if _recorder is not None or os.environ.get("DGUIDE_TRACKING") == "off":  # each process may run replicates alone
        yield
        return
    command = [sys.executable, "-P", "-W", "ignore", "-c", "from dguide.tracking import record; record()"]
    # In a session of its own, where signals to the work do not reach it.
    _recorder = recorder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        _used = False
        yield
    finally:
        _recorder = None
        if not _used:  # the command ended before there was a run
            recorder.kill()
        try:
            recorder.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            recorder.kill()
            _warn(TimeoutError(f"no answer in {PATIENCE_S:.0f} s"))


def record() -> None:
    """Carry out what the work sends, until it ends, in a process that talks to MLflow."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.disable()
    received: SimpleQueue[str] = SimpleQueue()  # filled also while MLflow is slow, so that the work never waits
    Thread(target=lambda: deque(map(received.put, chain(sys.stdin, [""])), maxlen=0), daemon=True).start()
    messages, tracker, status = (json.loads(line) for line in iter(received.get, "")), Tracker(""), "KILLED"
    try:
        gc.disable()  # it takes a fifth of an import of this size
        tracker.mlflow, warned = connect(), False
        gc.enable()
        for method, *arguments in messages:
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:
                if method == "start":
                    raise
                tracker.mlflow.search_experiments(max_results=1)
                if not warned:
                    _warn(error, "not all is tracked")
                warned = True
    except Exception as error:  # MLflow is gone; at the end it may be back
        _warn(error)
        status = next((arguments[0] for method, *arguments in messages if method == "end"), status)
    with suppress(Exception):
        while tracker.mlflow.active_run() is not None:
            tracker.end(status)


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


@cache
def _origin(root: Path) -> dict[str, str]:
    """Where a run comes from, as tags."""
    origin = {COMMIT: git(root, "rev-parse", "HEAD"), "mlflow.source.name": " ".join(["dguide", *sys.argv[1:]])}
    return {**_flat(provenance(root)), **origin, "dvc.experiment": os.environ.get("DVC_EXP_NAME", "")}


def connect() -> Any:
    """MLflow as a module, with its address."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    import mlflow
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 1  # ten tries to reach a database take 105 s
    mlflow.set_tracking_uri(_address())
    return mlflow


def _address() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_project() / 'mlflow.db'}"


def _project() -> Path:
    """The project folder; of a DVC experiment in a temporary copy, the real one."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def _wanted() -> bool:
    return os.environ.get("DGUIDE_TRACKING") != "off" and is_first()


def _warn(error: Exception, what: str = "not tracked") -> None:
    line = f"{what} in MLflow at {_address()} ({reason(error)}); files are complete, nothing else depends on it"
    notice(re.sub(r"(?<=://)\S+(?=@)|(?<=password=)[^&\s]+", "***", line))


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if type(value) in (int, float) and math.isfinite(value)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": shown}
    return flat
