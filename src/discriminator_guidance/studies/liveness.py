"""Which workers live, which trials died with theirs, and how those are tried again.

A worker holds a lock file for as long as it lives; the kernel lets go of it however the worker ends. In a database the
workers may be on other machines, so there Optuna's heartbeat tells who lives.
"""

from __future__ import annotations

import os
import platform
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.studies.storage import MAX_RETRY

# User attributes of a trial: who runs it, why it failed for good, whether it was interrupted.
WORKER, REASON, INTERRUPTED = "worker", "reason", "interrupted"
# Optuna has called it experimental since 2021.
with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
    retry = RetryHeartbeatStaleTrialCallback(MAX_RETRY)


class Crew:
    """The workers of a study on this machine.

    Args:
        folder: for their lock files, one folder a study.
        heartbeat: whether the storage is a database, where Optuna itself finds the dead.
    """

    def __init__(self, folder: Path, heartbeat: bool) -> None:
        self._folder, self.heartbeat = folder, heartbeat
        folder.mkdir(parents=True, exist_ok=True)
        self.claim = FileLock(folder / "claim.lock")  # held while trials are counted, recovered and taken

    @contextmanager
    def enlisted(self) -> Iterator[str]:
        """Count as living while the enclosed work runs.

        Yields:
            The worker's name: host, process, a random part.
        """
        name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        lock = FileLock(self._lock(name))
        with lock:
            yield name
        self._lock(name).unlink(missing_ok=True)

    def lives(self, worker: str | None) -> bool:
        """Whether a worker still runs.

        Args:
            worker: its name; None of a trial whose worker was killed before it could sign.

        Returns:
            False for certain; of other machines always True, because their locks cannot be seen.
        """
        if worker is None:
            return False
        if not worker.startswith(f"{platform.node()}-"):
            return True
        return self._held(self._lock(worker))

    def anybody(self) -> bool:
        """Whether any worker of this machine runs.

        Returns:
            True or False; locks of dead workers are cleared away.
        """
        return sum(self._held(path) for path in self._folder.glob("*.lock") if path.name != "claim.lock") > 0

    def first_to_tell(self, trial: FrozenTrial) -> bool:
        """Whether a trial that ended here has to be told of; from now on somebody has.

        Args:
            trial: that has ended. Its beginning is noted too: a study that was deleted and begun anew has its numbers
                again.

        Returns:
            True once for each trial of this machine, also if the call whose worker ran it was killed before it could
            tell.
        """
        if not str(trial.user_attrs.get(WORKER)).startswith(f"{platform.node()}-"):
            return False
        entry, told = f"{trial.number} {trial.datetime_start}", self._folder / "told"
        with self.claim:
            if told.is_file() and entry in told.read_text(encoding="utf-8").splitlines():
                return False
            with told.open("a", encoding="utf-8") as stream:
                stream.write(f"{entry}\n")
        return True

    def _lock(self, worker: str) -> Path:
        return self._folder / f"{worker}.lock"

    @staticmethod
    def _held(path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return True
        return False


def recover(study: optuna.Study, crew: Crew) -> list[int]:
    """Fail the trials whose workers died and enqueue their parameters again; the caller holds `crew.claim`.

    Args:
        study: any number of workers may go on with it meanwhile.
        crew: the workers of this machine.

    Returns:
        Numbers of the trials that are tried again.
    """
    if crew.heartbeat:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            fail_stale_trials(study)
    else:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not crew.lives(trial.user_attrs.get(WORKER)):
                study.tell(trial.number, state=TrialState.FAIL)
    # Looked up anew, so that a kill between failing and enqueueing costs nothing.
    again = lost(study, crew.heartbeat)
    for trial in again:
        retry(study, trial)
    return [trial.number for trial in again]


def lost(study: optuna.Study, heartbeat: bool) -> list[FrozenTrial]:
    """Trials that ended with their worker, not by their own fault, and have not been enqueued again.

    Args:
        study: to look through.
        heartbeat: whether Optuna itself enqueues what it finds dead.

    Returns:
        Failed trials, by number.
    """
    trials = study.get_trials(deepcopy=False)
    again = retried(trials)
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL
        and trial.number not in again
        and len(attempts(trial)) < MAX_RETRY
        and (trial.user_attrs.get(INTERRUPTED) or not (heartbeat or trial.user_attrs.get(REASON)))
    ]


def settled(study: optuna.Study, heartbeat: bool) -> list[FrozenTrial]:
    """Trials that need not be run any more: complete, pruned, or failed for good.

    Args:
        study: to look through.
        heartbeat: whether Optuna itself enqueues what it finds dead.

    Returns:
        Trials, by number.
    """
    trials = study.get_trials(deepcopy=False)
    again = retried(trials) | {trial.number for trial in lost(study, heartbeat)}
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in again]


def attempts(trial: FrozenTrial) -> list[int]:
    """Earlier trials that ran the parameters of a trial and were lost.

    Args:
        trial: of a study.

    Returns:
        Their numbers, ascending.
    """
    numbers: list[int] = trial.system_attrs.get("retry_history", [])
    return numbers


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Trials whose parameters were enqueued again.

    Args:
        trials: all of a study.

    Returns:
        Their numbers.
    """
    return {number for trial in trials for number in attempts(trial)}
