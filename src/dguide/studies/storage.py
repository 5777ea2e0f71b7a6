"""The storage of studies: a journal file in reports/, or a database that several machines share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from dguide import tracking
from dguide.artifacts import Layout
from dguide.settings import Config
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.files import fingerprint, reason, sha256

REASON = "reason"  # user attribute of a trial that failed by itself, not with its process

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats and names of objectives, to Optuna
retry = RetryHeartbeatStaleTrialCallback(max_retry=3)
# Seconds between signs of life of a trial, and without one before it is lost.
DATABASE: dict[str, Any] = {"heartbeat_interval": 30, "grace_period": 60, "heartbeat_stale_trial_callback": retry,
                            "engine_kwargs": {"pool_pre_ping": True}}  # fmt: skip


@dataclass(frozen=True)
class StudyPlan:
    """The objective of a study, and everything that its values depend on."""

    word: str
    objective: str  # the value of a trial, which is minimised
    settings: Mapping[str, Any]  # that decide the values
    inputs: tuple[Path, ...]  # files that decide the values
    pruner: BasePruner = field(default_factory=NopPruner)


class TrialSampler(TPESampler):
    """Optuna's TPE, seeded for each trial by the study's seed and the trial's number, in whatever process it runs."""

    def __init__(self, seed: int, number: int = 0) -> None:
        super().__init__(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        self.first = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Start the random streams of a trial."""
        TrialSampler.__init__(self, self.first, trial.number)


def open_study(config: Config, layout: Layout, plan: StudyPlan) -> optuna.Study:
    """Begin a study or load it; refuse other settings, and give notice of other networks or images."""
    for path in plan.inputs:
        if not path.is_file():
            raise InputError(f"{path}", "no such file", "run `dvc repro` before the study")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = layout.study / f"{plan.word}.journal"
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        url = config.studies.storage
        kept = RDBStorage(url, **DATABASE) if url else JournalStorage(JournalFileBackend(str(journal)))
        name = f"{layout.profile}-{plan.word}"
        if name not in optuna.get_all_study_names(kept):  # `create_study` would also write to a journal that has it
            optuna.create_study(storage=kept, study_name=name, load_if_exists=True)
        sampler = TrialSampler(config.studies.seed)
        study = optuna.load_study(storage=kept, study_name=name, sampler=sampler, pruner=plan.pruner)
    except ImportError as error:
        remedy = "install it, e.g. psycopg for postgresql+psycopg://"
        raise ConfigError("an installed driver for study.storage", reason(error), remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"a complete journal {journal}", str(error), "restore it with git, or remove it") from error
    digests = {
        "settings": fingerprint(plan.settings),
        "inputs": fingerprint({str(path.relative_to(layout.root)): sha256(path) for path in plan.inputs}),
    }
    begun = {**digests, **study.user_attrs}
    if begun["settings"] != digests["settings"]:
        remedy = f"go back to them, or move {journal.with_suffix('')}* away and begin again"
        raise ConfigError(f"study {study.study_name} with the settings it was begun with", "other settings", remedy)
    if begun["inputs"] != digests["inputs"]:
        tracking.notice(f"study {study.study_name} was begun with other networks or images: values compare roughly")
    if "settings" not in study.user_attrs:
        study.set_metric_names([plan.objective])
        for key, digest in digests.items():
            study.set_user_attr(key, digest)
    return study


def recover(study: optuna.Study, running: bool) -> None:
    """Enqueue again what was lost with its process: trials that were interrupted, or killed.

    A database knows killed ones by their heartbeat; in a journal they stay RUNNING until `running` ones are asked for.
    """
    fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if running else ():
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    for trial in trials:
        if lost(trial) and trial.number not in again:
            retry(study, trial)


def lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its process, so that another stands for it."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of a database, which Optuna may hide behind others, into one line."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, SQLAlchemyError):
                remedy = "start it and run the same command again"
                raise ConfigError("a database that answers at study.storage", reason(cause), remedy) from error
            cause = cause.__cause__ or cause.__context__
        raise
