"""The trials of a study: a journal in reports/ or a database keeps them, and each process runs them in a loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import PercentilePruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from dguide import tracking
from dguide.settings import Config, Layout, plain
from discriminator_guidance.core.errors import ConfigError, DivergenceError, InputError
from discriminator_guidance.core.files import fingerprint, reason, sha256

# User attributes of a trial: the name of one that a study begins with, which is never pruned; why it failed by itself.
GRID, REASON = "grid", "reason"

Objective = Callable[[optuna.Trial, tracking.Tracker], float]

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats and names of objectives, to Optuna
retry = RetryHeartbeatStaleTrialCallback(max_retry=3)
# Seconds between signs of life of a trial, and without one before it is lost.
DATABASE: dict[str, Any] = {"heartbeat_interval": 30, "grace_period": 60, "heartbeat_stale_trial_callback": retry,
                            "engine_kwargs": {"pool_pre_ping": True}}  # fmt: skip


def run_study(word: str, config: Config, layout: Layout, trials: str | None, recover_all: bool) -> dict[str, Any]:
    """Run a study up to a number of trials (None: all of a factorial) and write what is complete; returns a summary."""
    threads = config.studies.factorial.threads if word == "factorial" else config.studies.threads
    config = replace(config, runtime=replace(config.runtime, threads=threads))
    if word == "discriminator":  # the others sample every training replicate
        layout = layout.replicates(config.replicates)[0]
    module: Any = import_module(f"dguide.studies.{word}")
    plan: StudyPlan = module.plan(config, layout)
    with storage_errors():
        study = open_study(config, layout, plan, recover_all)
        total = len(plan.starts) if trials is None else wanted(trials, study)
        try:
            run_trials(study, module.objective(config, layout), total, config)
        finally:
            summary: dict[str, Any] = module.write_results(study, config, layout) if complete(study) else {}
    return {"trials": count(study), **summary}


@dataclass(frozen=True)
class StudyPlan:
    """The objective of a study, the trials it begins with, and everything that its values depend on."""

    word: str
    objective: str  # the value of a trial, which is minimised
    settings: Mapping[str, Any]  # that decide the values
    inputs: tuple[Path, ...]  # files that decide the values
    starts: Mapping[str, Mapping[str, Any]]  # parameters of the first trials, by name


def open_study(config: Config, layout: Layout, plan: StudyPlan, recover_all: bool) -> optuna.Study:
    """Begin a study or load it, unless it has other settings, and enqueue what it begins with and what was lost."""
    for path in plan.inputs:
        if not path.is_file():
            raise InputError(f"{path}", "no such file", "run `dvc repro` before the study")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = _loaded(config, layout, plan)
    hashes = {str(path.relative_to(layout.root)): sha256(path) for path in plan.inputs}
    begun, digests = study.user_attrs, {"inputs": fingerprint(hashes), "settings": fingerprint(plan.settings)}
    if "settings" not in begun:
        study.set_metric_names([plan.objective])
        for key, digest in digests.items():
            study.set_user_attr(key, digest)
    elif begun["settings"] != digests["settings"]:
        remedy = f"go back to them, or move {layout.study / plan.word}* away and begin again"
        raise ConfigError(f"study {study.study_name} with the settings it was begun with", "other settings", remedy)
    elif begun["inputs"] != digests["inputs"]:
        tracking.notice(f"study {study.study_name} was begun with other networks or images: values compare roughly")
    _recover(study, recover_all)
    for name, params in plan.starts.items():
        study.enqueue_trial(dict(params), user_attrs={GRID: name}, skip_if_exists=True)
    return study


def _loaded(config: Config, layout: Layout, plan: StudyPlan) -> optuna.Study:
    name, journal = f"{layout.profile}-{plan.word}", layout.study / f"{plan.word}.journal"
    rule: Any = getattr(getattr(config.studies, plan.word), "pruner", None)
    pruner = rule and PercentilePruner(rule.percentile, rule.startup_trials, rule.warmup_epochs, n_min_trials=4)
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        url = config.studies.storage
        storage = RDBStorage(url, **DATABASE) if url else JournalStorage(JournalFileBackend(str(journal)))
        if name not in optuna.get_all_study_names(storage):  # `create_study` would also write to a journal that has it
            optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        study = optuna.load_study(storage=storage, study_name=name, pruner=pruner)
        complete(study)  # values that are no numbers
        return study
    except ImportError as error:
        remedy = "install it, e.g. psycopg for postgresql+psycopg://"
        raise ConfigError("an installed driver for study.storage", reason(error), remedy) from error
    except Exception as error:  # Optuna raises half a dozen types on a journal that it did not write
        if config.studies.storage or isinstance(error, OSError):
            raise
        raise InputError(f"a complete journal {journal}", reason(error), "restore it with git, or remove it") from error


def _recover(study: optuna.Study, running: bool) -> None:
    """Enqueue again what was lost with its process: trials that were interrupted, or killed."""
    fail_stale_trials(
        study
    )  # of a database; in a journal killed trials stay RUNNING until `running` ones are asked for
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if running else ():
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in retry.retry_history(trial)}
    for trial in trials:
        if lost(trial) and trial.number not in again:
            retry(study, trial)


def lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its process, so that another stands for it."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def draw_values(
    trial: optuna.Trial, ranges: Mapping[str, Sequence[Any]], choices: Collection[str] = (), log: Collection[str] = ()
) -> dict[str, Any]:
    """Draw settings from their choices or [low, high]; real numbers to 3 digits, as they are promoted."""
    values = dict[str, Any]()
    for key, allowed in ranges.items():
        if key in choices:
            values[key] = trial.suggest_categorical(key, allowed)
        elif isinstance(allowed[0], int):
            values[key] = trial.suggest_int(key, *allowed, log=key in log)
        else:
            values[key] = float(f"{trial.suggest_float(key, *allowed, log=key in log):.3g}")
    return values


def wanted(trials: str, study: optuna.Study) -> int:
    """How many trials "40" (in all) or "+20" (more) means."""
    digits = trials.removeprefix("+")
    if not digits.isdecimal() or not int(digits):
        raise ConfigError("--trials as a total or as more", repr(trials), "write e.g. 40, or +20")
    return int(digits) + (count(study) if trials != digits else 0)


def count(study: optuna.Study) -> int:
    """The trials that have ended or are being run."""
    return sum(t.state != TrialState.WAITING and not lost(t) for t in study.get_trials(deepcopy=False))


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that need not be run any more."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and not lost(trial)]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ran to their end, the smallest value first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: (trial.value, trial.number))


def run_trials(study: optuna.Study, objective: Objective, total: int, config: Config) -> None:
    """Run trials until the study has `total`, as other processes may too; a trial that diverges fails for good."""
    if (present := count(study)) >= total:
        tracking.notice(f"study {study.study_name} has {present} trials: no more to run")
        return
    settings = plain(getattr(config.studies, study.study_name.rpartition("-")[2]))
    tags = {"stage": "study", "study": study.study_name, "mlflow.note.content": ", ".join(study.metric_names or ())}
    with (
        tracking.run(config.profile, f"study/{study.study_name}", tags, settings),
        tracking.bar(study.study_name, total, "trials", done=present) as advance,
    ):

        def tracked(trial: optuna.Trial) -> float:
            # A trial is seeded by its number, in whatever process it runs.
            seed = np.random.SeedSequence([config.studies.seed, trial.number]).generate_state(1)[0]
            study.sampler = TPESampler(seed=int(seed))
            name, marks = f"study/{study.study_name}/{trial.number}", {**tags, "trial": str(trial.number)}
            with tracking.run(config.profile, name, marks, {}) as tracker:
                try:
                    value = objective(trial, tracker)
                    tracker.summary({"objective": value})
                    return value
                except DivergenceError as error:
                    trial.set_user_attr(REASON, str(error))
                    raise
                except optuna.TrialPruned:
                    tracker.status = "KILLED"
                finally:
                    tracker.params(trial.params)
            raise optuna.TrialPruned

        while present < total:
            study.optimize(tracked, n_trials=1, catch=(DivergenceError,))
            shown, present = present, count(study)
            advance(min(present, total) - shown)
    if running := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        numbers = ", ".join(str(trial.number) for trial in running)
        tracking.notice(f"trials {numbers} of {study.study_name} run elsewhere; if they were killed, add --recover")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of a database, which Optuna may hide behind others, into one line."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, SQLAlchemyError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        remedy = "start it and run the same command again"
        raise ConfigError("a database that answers at study.storage", reason(cause), remedy) from error
