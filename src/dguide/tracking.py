"""What a run shows and records: tables and progress in the terminal, and a run in MLflow, best effort.

Files are the record. A process of its own talks to MLflow (`record`): it takes no time from the work, cannot stop it,
and closes the run however the work ends. Environment: MLFLOW_TRACKING_URI (default: mlflow.db in the project folder),
DGUIDE_TRACKING=off (no tracking).
"""

import fcntl
import json
import logging
import math
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import IO, Any

from rich.box import HEAVY_HEAD
from rich.console import Console, Group
from rich.table import Column, Table

from discriminator_guidance.core.files import reason, sha256, source_hash
from discriminator_guidance.core.runtime import is_first

PLAIN_WIDTH = 10_000  # without a terminal, where lines are as long as they have to be


def table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print results as tables on standard output, of as many columns as fit; plain ones where there is no terminal."""
    terminal = (console := Console(markup=False, emoji=False, highlight=False)).is_terminal
    console.width = console.width if terminal else PLAIN_WIDTH

    def part(columns: Sequence[str]) -> Table:
        shown = Table(*(Column(name, overflow="fold") for name in columns), box=HEAVY_HEAD if terminal else None)
        for row in rows:
            shown.add_row(*(_shown(row.get(column, "")) for column in columns))
        return shown

    columns = list(dict.fromkeys(chain(*rows)))
    parts, wide = [columns[:1]], console.options.update_width(PLAIN_WIDTH)  # all have the first column
    for column in columns[1:]:
        if len(parts[-1]) > 1 and console.measure(part([*parts[-1], column]), options=wide).maximum > console.width:
            parts.append(columns[:1])
        parts[-1].append(column)
    console.print(Group(title, *map(part, parts)))  # in one write: other processes print too


def notice(message: str) -> None:
    """Print one line on standard error."""
    print(f"note: {message}", file=sys.stderr)


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
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1",
    "PGCONNECT_TIMEOUT": "5",
}

_recorder: IO[str] | None = None  # of this command: what it reads


class Tracker:
    """The run in MLflow that was opened last; the work only sends the calls, and the recorder carries them out."""

    status = "FINISHED"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log one point of each curve."""
        _send("log_metrics", _finite(values), step=step, synchronous=False)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Log final numbers, fractions to five digits."""
        finite = _finite(values).items()
        _send("log_metrics", {key: value if value == round(value) else float(f"{value:.5g}") for key, value in finite})

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; nested mappings get dotted names."""
        _send("log_params", _flat(values))

    def artifact(self, *paths: Path) -> None:
        """Attach copies of small files."""
        for path in paths:
            _send("log_artifact", str(path))

    def model(self, name: str, weights: Path, loss: float | None = None) -> None:
        """Register weights, which stay where DVC keeps them, as a new version; `best` has the smallest loss."""
        _send("_register", name, os.path.relpath(weights), loss)


def _send(function: str, *arguments: Any, **named: Any) -> None:
    """Have the recorder call a function of mlflow, or one of CALLS."""
    if _recorder is not None:
        with suppress(OSError):  # it has warned and ended
            _recorder.write(json.dumps([function, arguments, named], default=str) + "\n")
            _recorder.flush()


def _start(mlflow: Any, experiment: str, name: str, tags: dict[str, str]) -> None:
    """Open a run, in the one that is open if any; create the experiment if need be."""
    folder = (_project() / "mlartifacts").as_uri() if mlflow.get_tracking_uri().startswith("sqlite") else None
    stored = mlflow.get_experiment_by_name(experiment)
    identifier = stored.experiment_id if stored else mlflow.create_experiment(experiment, folder)
    kind = {"nested": True, "log_system_metrics": mlflow.active_run() is None}
    mlflow.start_run(experiment_id=identifier, run_name=name, tags=tags, **kind)


def _register(mlflow: Any, name: str, path: str, loss: float | None) -> None:
    client, run = mlflow.MlflowClient(), mlflow.active_run().info
    tags = {"weights": path, "weights.sha256": sha256(Path(path)), "validation_loss": str(loss)}
    model = mlflow.create_external_model(name=name, source_run_id=run.run_id, tags=tags).model_id
    with suppress(mlflow.MlflowException):  # it exists
        client.create_registered_model(name)
    client.create_model_version(name, f"models:/{model}", run.run_id, tags, description=path, model_id=model)
    if loss is not None:
        versions = client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
        # DVC keeps one file at a path, and none of a row that left the settings.
        newest = {version.tags["weights"]: version for version in versions if Path(version.tags["weights"]).is_file()}
        best = min(newest.values(), key=lambda version: float(version.tags["validation_loss"]))
        client.set_registered_model_alias(name, "best", best.version)


def _end(mlflow: Any, status: str) -> None:
    """Close the run and deliver what is on its way."""
    mlflow.end_run(status)
    mlflow.flush_async_logging()


CALLS = {function.__name__: function for function in (_start, _register, _end)}


@contextmanager
def run(experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Iterator[Tracker]:
    """Track the work as a run; its status is the tracker's, FAILED by an exception, KILLED by an interruption."""
    with recording():
        tracker = Tracker()
        _send("_start", experiment, name, {**tags, **_origin(_project())})
        tracker.params(params)
        try:
            yield tracker
        except BaseException as error:
            tracker.status = "FAILED" if isinstance(error, Exception) else "KILLED"
            raise
        finally:
            _send("_end", tracker.status)


@contextmanager
def recording() -> Iterator[None]:
    """Start the recorder, which is ready after some seconds, and wait in the end until it has delivered everything."""
    global _recorder
    if _recorder is not None or os.environ.get("DGUIDE_TRACKING") == "off" or not is_first():
        yield
        return
    command = [sys.executable, "-P", "-W", "ignore", "-c", "from dguide.tracking import record; record()"]
    # The pipe takes thousands of calls, so that the work does not wait while MLflow is slow.
    pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "pipesize": 2**20}
    try:
        process = subprocess.Popen(command, start_new_session=True, **pipe)  # no signals to the work reach a session
    except OSError as error:  # a user's pipes have a limit
        _warn(error)
        yield
        return
    try:
        _recorder = process.stdin
        yield
    finally:
        _recorder = None
        try:
            process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _warn(TimeoutError(f"no answer in {PATIENCE_S:.0f} s"))


def record() -> None:
    """Carry out what the work sends, until it ends, in a process that talks to MLflow."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.disable()
    os.environ.update({**ENVIRONMENT, **os.environ})
    warned, dropped = False, 0  # open runs that MLflow did not open, with all inside
    try:
        import mlflow
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1  # ten tries to reach a database take 105 s
        mlflow.set_tracking_uri(_address())
        folder = os.open(_project(), os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)  # two recorders that create a database's tables together would fail
        mlflow.search_experiments(max_results=1)
        os.close(folder)
        for function, arguments, named in map(json.loads, sys.stdin):
            if dropped:
                dropped += {"_start": 1, "_end": -1}.get(function, 0)
                continue
            try:
                call = partial(CALLS[function], mlflow) if function in CALLS else getattr(mlflow, function)
                call(*arguments, **named)
            except Exception as error:
                if not (dropped := function == "_start"):
                    mlflow.search_experiments(max_results=1)  # raises where MLflow is gone
                if not warned:
                    _warn(error, "not all is tracked")
                warned = True
    except Exception as error:  # MLflow is gone
        _warn(error)
    with suppress(Exception):
        while mlflow.active_run() is not None:  # the work was killed
            _end(mlflow, "KILLED")
    os._exit(0)  # the work waits, and MLflow's own end takes most of a second


def provenance(root: Path) -> dict[str, Any]:
    """The commit, the machine and the versions that results come from: for MLflow and files that git ignores."""
    commit = _git(root, "rev-parse", "HEAD")
    return {
        "commit": commit or "without git",
        "uncommitted changes": bool(_git(root, "status", "--porcelain", "--", *CODE)) if commit else "unknown",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in LIBRARIES if find_spec(name.replace("-", "_"))},
    }


def _git(root: Path, *arguments: str) -> str:
    """The output of git for a project folder; empty where it is not a checkout of its own."""
    # Named folders: hooks export those of another repository, and git would look in the folders above.
    command = ["git", "--git-dir=.git", "--work-tree=.", "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def _origin(root: Path) -> dict[str, str]:
    """Where a run comes from, as tags."""
    code = f"{source_hash()[:8]} {source_hash(Path(__file__).parent)[:8]}"  # tells runs of one commit apart
    origin = {"code": code, "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""), **_flat(provenance(root))}
    command = " ".join(["dguide", *sys.argv[1:]])
    return {**origin, "mlflow.source.git.commit": origin["commit"], "mlflow.source.name": command}


def _address() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_project() / 'mlflow.db'}"


def _project() -> Path:
    """The project folder; of a DVC experiment in a temporary copy, the real one."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def _warn(error: Exception, what: str = "not tracked") -> None:
    line = f"{what} in MLflow at {_address()} ({reason(error)}); files are complete, nothing else depends on it"
    notice(re.sub(r"(?<=://).+(?=@)|(?<==)[^&\s]+", "***", line))  # passwords, whatever their parameter is called


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if type(value) in (int, float) and math.isfinite(value)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": shown}
    return flat
