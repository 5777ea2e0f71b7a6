"""Where a study is kept, and whether it is still the one that was begun."""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend

from discriminator_guidance.errors import ConfigError, InputError, OutputError
from discriminator_guidance.redaction import redact

PATIENCE_S = 60.0  # while the server of a database is restarted
MAX_RETRY = 3  # a trial that takes its worker down this many times is left failed
BLOCK = 65536  # bytes of a journal that are read at once, from its end


@dataclass(frozen=True)
class StudyPlan:
    """What a study is; workers are given it whole, so everything in it can be pickled.

    Args:
        name: in the storage, e.g. "mini-discriminator".
        journal: file of the study where `storage` is None; locks of its workers lie beside it in any case.
        storage: an Optuna URL of a database in place of the journal.
        seed: of the samplers.
        directions: "minimize" or "maximize", one for each value of a trial.
        objective: what the values are, in words; kept with the study.
        determinants: digests of what decides the value of a trial, by part: settings, inputs, code.
        pruner: stops trials that promise nothing; None, as with several directions, prunes none.
        heartbeat_s: seconds between signs of life of a trial in a database; after twice as many it counts as lost.
    """

    name: str
    journal: Path
    storage: str | None
    seed: int
    directions: tuple[Literal["minimize", "maximize"], ...]
    objective: str
    determinants: Mapping[str, str]
    pruner: BasePruner | None = None
    heartbeat_s: int = 30


class WholeWrites(JournalFileBackend):
    """A journal of whole lines, whatever becomes of a writer.

    Lines are written, and the lock is given back, before SIGTERM or Ctrl-C take effect. What a full disk cuts off is
    taken back by its writer; a piece that a killed one left is removed by the next, which would else write on in it.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries.

        Args:
            logs: of Optuna.

        Raises:
            OutputError: no room, no permission or a quota; the journal is what it was.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with _deferred(signal.SIGTERM), _deferred(signal.SIGINT):
            try:
                self._lock.acquire()
                try:
                    _append(Path(self._file_path), lines.encode())
                finally:
                    self._lock.release()
            except OSError as error:
                raise OutputError(
                    f"to write {self._file_path}",
                    str(error.strerror or error),
                    "give it room and permission and run the same command again; every finished trial is kept",
                ) from error


def _append(journal: Path, lines: bytes) -> None:
    with journal.open("a+b", buffering=0) as stream:  # a buffer would write what is left of it once more when closed
        whole = _end_of_last_line(stream)
        stream.truncate(whole)
        try:
            left = memoryview(lines)
            while left:
                left = left[stream.write(left) :]
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(whole)
            raise


def _end_of_last_line(stream: FileIO) -> int:
    """How many bytes of a file are whole lines."""
    end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK)
        stream.seek(start)
        if (at := stream.read(end - start).rfind(b"\n")) >= 0:
            return start + at + 1
        end = start
    return 0


@contextmanager
def _deferred(number: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # others are never interrupted
        yield
        return
    came: list[int] = []
    handler = signal.signal(number, lambda *told: came.append(number))
    try:
        yield
    finally:
        signal.signal(number, handler)
        if came:
            signal.raise_signal(number)


def open_storage(plan: StudyPlan, patience_s: float = 0.0) -> BaseStorage:
    """Open the journal or the database of a study; the journal file is made where it is not there.

    Args:
        plan: the study.
        patience_s: how long a database may be away (seconds).

    Returns:
        The storage.

    Raises:
        ConfigError: the address is none, its driver is not installed, or the database does not answer.
        InputError: a line of the journal, other than an unfinished last one, is damaged.
    """
    if (address := plan.storage) is None:
        plan.journal.parent.mkdir(parents=True, exist_ok=True)
        _refuse_damaged(plan.journal)
        return JournalStorage(WholeWrites(str(plan.journal)))
    from sqlalchemy.exc import SQLAlchemyError

    from discriminator_guidance.studies.database import PatientStorage, patiently

    try:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return patiently(
                lambda: PatientStorage(
                    address,
                    heartbeat_interval=plan.heartbeat_s,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRY),
                ),
                patience_s,
            )
    except ImportError as error:
        raise ConfigError(
            "an installed driver for the database in study.storage",
            _reason(error),
            "install it, e.g. psycopg for postgresql+psycopg://",
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        raise ConfigError("a database that answers at study.storage", _reason(error), "mend or start it") from error


def open_study(plan: StudyPlan, sampler: BaseSampler | None = None, patience_s: float = 0.0) -> optuna.Study:
    """Begin a study, or go on with the one that is there.

    Args:
        plan: the study.
        sampler: of this process; None where no trial is asked for.
        patience_s: how long a database may be away (seconds).

    Returns:
        The study.

    Raises:
        ConfigError: it was begun with another seed, settings, inputs or code; nothing has been changed then.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=open_storage(plan, patience_s),
        study_name=plan.name,
        directions=plan.directions,
        sampler=sampler,
        pruner=plan.pruner or NopPruner(),
        load_if_exists=True,
    )
    told = {"seed": str(plan.seed), "objective": plan.objective, **plan.determinants}
    known = study.user_attrs
    # Written key by key: a worker that was killed in between leaves the rest to the next.
    for key, value in told.items():
        if key not in known and not study.get_trials(deepcopy=False):
            study.set_user_attr(key, value)
    if others := [key for key, value in told.items() if study.user_attrs.get(key) != value]:
        where = redact(plan.storage) if plan.storage else plan.journal
        raise ConfigError(
            f"study {plan.name} as it was begun",
            f"other {', '.join(others)}",
            f"go back to them, or begin anew after `optuna delete-study --study-name {plan.name} --storage {where}`",
        )
    return study


def mend_journal(journal: Path) -> bool:
    """Cut off a last line that was not written to its end; only for a journal that nobody writes to.

    Args:
        journal: the file.

    Returns:
        Whether there was one.
    """
    if not journal.is_file():
        return False
    with journal.open("r+b", buffering=0) as stream:
        whole = _end_of_last_line(stream)
        return stream.seek(0, os.SEEK_END) != stream.truncate(whole)


def _refuse_damaged(journal: Path) -> None:
    if not journal.is_file():
        return
    for number, line in enumerate(journal.read_bytes().split(b"\n")[:-1], 1):
        try:
            whole = isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise InputError(
                f"a whole journal {journal}", f"line {number} is damaged", "restore it from a copy, or remove it"
            )


def _reason(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:200]
