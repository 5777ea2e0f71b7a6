"""A study from its command to its record; a journal or a database keeps its trials, which processes share."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dguide import tracking
from dguide.report.figures import png
from dguide.settings import Config, Layout, SampleRange, Variant, plain
from dguide.stages.guided import Networks, batches_of, draw, weight_files
from discriminator_guidance.core import files
from discriminator_guidance.core.errors import ConfigError, DivergenceError, InputError
from discriminator_guidance.core.runtime import allow_tf32, prepare, progress
from discriminator_guidance.metrics.distances import gaussian_of_features
from discriminator_guidance.metrics.features import extract_features, load_fid_network

matplotlib.use("Agg")
matplotlib.rcParams.update({"text.parse_math": False, "savefig.bbox": "tight"})  # a $ in the name of a network is a $
GRID = "grid"  # user attribute of a trial that a study begins with, which is never pruned: its name
# A trial that diverges, or draws what cannot be sampled, is pruned. One that fails otherwise, or is lost, is repeated.
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
COUNTED = (*ENDED, TrialState.RUNNING)

Objective = Callable[[optuna.Trial, tracking.Tracker], float]

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats and names of objectives, to Optuna
retry = RetryHeartbeatStaleTrialCallback()
# Seconds between signs of life of a trial, and without one before it is lost.
DATABASE: dict[str, Any] = {"heartbeat_interval": 30, "grace_period": 60, "heartbeat_stale_trial_callback": retry,
                            "engine_kwargs": {"pool_pre_ping": True}}  # fmt: skip


@dataclass(frozen=True)
class StudyPlan:
    """A study: its word, what the value of a trial is, which is minimised, and the first trials' parameters by name."""

    word: str
    value_name: str  # as charts print it; the function that computes it is the module's `objective`
    starts: Mapping[str, Mapping[str, Any]]
    pruner: optuna.pruners.BasePruner | None = None  # gives up trials that fall behind


def run_study(word: str, config: Config, layout: Layout, total: int | None, recover_all: bool) -> dict[str, Any]:
    """Run a study up to so many trials (None: those of its plan), write what is complete; its summary."""
    config = replace(config, runtime=replace(config.runtime, threads=config.studies.threads))
    module: Any = import_module(f"dguide.studies.{word}")
    plan: StudyPlan = module.plan(config)
    objective, write = module.objective(config, layout), getattr(module, "write_results", write_search)
    with storage_errors():
        study = open_study(config, layout, plan, recover_all)
        try:
            begun = {trial.user_attrs.get(GRID) for trial in study.get_trials(deepcopy=False, states=COUNTED)}
            planned = count(study) + len(plan.starts.keys() - begun)  # workers that begin together enqueue some twice
            run_trials(study, objective, total or planned, config)
        finally:
            summary: dict[str, Any] = write(study, config, layout, plan) if complete(study) else {}
    return {"trials": count(study), **summary}


def open_study(config: Config, layout: Layout, plan: StudyPlan, recover_all: bool) -> optuna.Study:
    """Begin a study or load it, unless of other settings or networks; enqueue what it begins with and what was lost."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = _loaded(config, layout, plan)
    if not study.metric_names:
        study.set_metric_names([plan.value_name])
    weights = [layout.model("fid_network") / file for file in files.WEIGHT_FILES]
    start = config.variants[config.studies.start]
    sets = config.studies.factorial.sets.values() if plan.word == "factorial" else ()
    members = tuple(dict.fromkeys(chain(start.members, *sets)))
    for replicate in layout.replicates(config.replicates):
        weights += weight_files(replicate, replace(start, members=members, weights="equal"))
    hashes = {str(path.relative_to(layout.root)): files.sha256(path) for path in weights if path.is_file()}
    for what, values in {"settings": value_settings(config, plan.word), "networks": hashes}.items():
        if what not in study.user_attrs:
            study.set_user_attr(what, files.fingerprint(values))
        if study.user_attrs[what] != files.fingerprint(values):
            remedy = f"go back to them, or move {layout.study / plan.word}* away and begin again"
            raise ConfigError(f"study {study.study_name} was begun with other {what}", remedy)
    fail_stale_trials(study)  # of a database, which has signs of life
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if recover_all else ():
        study.tell(trial.number, state=TrialState.FAIL)
    retried = {number for trial in study.get_trials(deepcopy=False) for number in retry.retry_history(trial)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if trial.number not in retried:
            retry(study, trial)
    for name, params in plan.starts.items():
        study.enqueue_trial(dict(params), user_attrs={GRID: name}, skip_if_exists=True)
    return study


def value_settings(config: Config, word: str) -> dict[str, Any]:
    """The settings on which the values of a study depend."""
    studies, guided = config.studies, config.guided
    members = [plain(config.members[name], "published") for name in config.variants[studies.start].members]
    return {
        "search": plain(getattr(studies, word), "finalists"),
        "tuning": plain(studies.tuning),
        "start": plain(config.variants[studies.start], "published"),
        "guided": [guided.seed, guided.time_min, guided.time_max],
        "cond": config.cond,
        "replicates": config.replicates,
        "seed": studies.seed,
        "sampler": plain(config.sampler),
        "discriminator": [plain(config.discriminator), *members] if word == "discriminator" else None,
    }


def _loaded(config: Config, layout: Layout, plan: StudyPlan) -> optuna.Study:
    name, url, journal = f"{layout.profile}-{plan.word}", config.studies.storage, layout.study / f"{plan.word}.journal"
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not url and files.regular(journal).is_file() and journal.read_bytes()[-2:] not in (b"", b"}\n"):
            raise ValueError("its last line is cut")  # Optuna would append to it
        storage = RDBStorage(url, **DATABASE) if url else JournalStorage(JournalFileBackend(str(journal)))
        if name not in optuna.get_all_study_names(storage):  # `create_study` would also write to a journal that has it
            optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        study = optuna.load_study(storage=storage, study_name=name, pruner=plan.pruner)
        complete(study)  # values that are no numbers
        return study
    except Exception as error:  # Optuna raises half a dozen types on a journal that it did not write
        if url and isinstance(error, ImportError | ValueError | ArgumentError):
            remedy = "correct it, or install its driver, e.g. psycopg for postgresql+psycopg://"
            raise ConfigError(f"study.storage cannot be opened: {files.reason(error)}", remedy) from error
        if url or isinstance(error, OSError):
            raise
        raise InputError(f"{journal} is damaged: {files.reason(error)}", "restore it with git or remove it") from error


def count(study: optuna.Study) -> int:
    """The trials that have ended or are being run."""
    return len(study.get_trials(deepcopy=False, states=COUNTED))


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ran to their end, the smallest value first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: (trial.value, trial.number))


def run_trials(study: optuna.Study, objective: Objective, total: int, config: Config) -> None:
    """Run trials until the study has `total`, as other processes may too; each is a run in that of the study."""
    if (present := count(study)) >= total:
        tracking.notice(f"study {study.study_name} has {present} trials: no more to run")
        return
    name, settings = f"study/{study.study_name}", plain(getattr(config.studies, study.study_name.rpartition("-")[2]))
    tags = {"stage": "study", "study": study.study_name, "mlflow.note.content": ", ".join(study.metric_names or ())}

    def tracked(trial: optuna.Trial) -> float:
        study.sampler = TPESampler(seed=config.studies.seed + trial.number)  # in whatever process it runs
        with tracking.run(config.profile, f"{name}/{trial.number}", tags, {}) as tracker:
            try:
                value = objective(trial, tracker)
                tracker.summary({"objective": value})
                return value
            except (optuna.TrialPruned, DivergenceError, ConfigError) as error:
                if isinstance(error, ConfigError) and GRID in trial.user_attrs:
                    raise  # the settings are wrong, not what was drawn
                trial.set_user_attr("reason", str(error))
                tracker.status = "KILLED"
            finally:
                tracker.params(trial.params)
        raise optuna.TrialPruned

    with tracking.run(config.profile, name, tags, settings), progress(study.study_name, total, "trials") as advance:
        advance(present)
        study.optimize(tracked, callbacks=[MaxTrialsCallback(total, states=COUNTED), lambda study, trial: advance(1)])
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
        problem = f"the database at study.storage does not answer: {files.reason(cause)}"
        raise ConfigError(problem, "start it and run the same command again") from error


def draw_values(
    trial: optuna.Trial, search: Any, keys: Sequence[str], choices: Sequence[str], logarithmic: Sequence[str]
) -> dict[str, Any]:
    """Draw the settings `keys` of a search from choices or [low, high]; real numbers to 3 digits, as promoted."""
    values = dict[str, Any]()
    for key in keys:
        allowed = getattr(search, key)
        if key in choices:
            values[key] = trial.suggest_categorical(key, allowed)
        elif isinstance(allowed[0], int):
            values[key] = trial.suggest_int(key, *allowed, log=key in logarithmic)
        else:
            values[key] = float(f"{trial.suggest_float(key, *allowed, log=key in logarithmic):.3g}")
    return values


class GuidedSamples:
    """Samples of many variants in one training replicate, with their features and those of the real images."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config, self.layout, path = config, layout, layout.model("fid_network")
        self.compute = prepare(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
        self.network = load_fid_network(path, self.compute)
        self.reference = gaussian_of_features(files.read_npz(path / "features.npz", ["train"], "fid_network")["train"])

    def features(self, variant: Variant, span: SampleRange, networks: Networks | None = None) -> Iterator[np.ndarray]:
        """Draw the samples of a variant in a range; yields at most ten times the features (n, d) of all so far."""
        rounded, rows, tenths = torch.backends.cuda.matmul.allow_tf32, list[np.ndarray](), 0
        size, device = self.config.evaluation.batch_size, self.compute.device
        for _, arrays in draw(self.config, self.layout, variant, span.seed, batches_of(span), networks=networks):
            allow_tf32(False)  # metrics are compared to many digits
            rows.append(extract_features(self.network.features, arrays["images"], size, device))
            allow_tf32(rounded)
            if (now := 10 * sum(map(len, rows)) // span.images) > tenths:
                tenths = now
                yield np.concatenate(rows)


def write_search(study: optuna.Study, config: Config, layout: Layout, plan: StudyPlan) -> dict[str, Any]:
    """Write <word>.csv, <word>.json and <word>_<chart>.png of a search; returns the winner, the best guide of a few."""
    from optuna.visualization import matplotlib as charts

    def fid(trial: FrozenTrial) -> float:
        return float(trial.user_attrs.get("fid", trial.values[0]))

    finalists = sorted(complete(study)[: getattr(getattr(config.studies, plan.word), "finalists", 1)], key=fid)
    fids = {trial.user_attrs.get(GRID): fid(trial) for trial in complete(study)}
    winner, ended = finalists[0], study.get_trials(deepcopy=False, states=ENDED)
    values = {"fid": fid(winner), "start_fid": fids.get(next(iter(plan.starts))), "objective": winner.value}
    record = {
        "study": plan.word,
        "n_trials": len(ended),
        "seed": config.studies.seed,
        "objective": plan.value_name,
        "fid_network": config.fid_network.name,
        "tuning": plain(config.studies.tuning, "batch_size"),
        "finalists": [{"trial": trial.number, "fid": fid(trial)} for trial in finalists],
        "winner": {"trial": winner.number, "values": values, "params": winner.params},
        "rows": winner.user_attrs["rows"],
    }
    files.write_csv(layout.study / f"{plan.word}.csv", [_row(trial) for trial in ended])
    files.write_json(layout.study / f"{plan.word}.json", record)
    with warnings.catch_warnings(action="ignore"):  # Optuna's charts are experimental, its ranges may be empty
        plots: dict[str, Any] = {"history": charts.plot_optimization_history(study)}
        if len({trial.value for trial in complete(study)}) >= 4:  # with fewer the other charts say nothing
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=config.studies.seed)
            plots["importances"] = charts.plot_param_importances(study, evaluator=evaluator)
        for name, axes in plots.items():
            write_chart(axes, layout.study / f"{plan.word}_{name}.png", config)
    return {"winner": winner.number, **values}


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        GRID: trial.user_attrs.get(GRID),
        "value": trial.value,  # of a pruned trial what it reported last
        **{name: value for name, value in trial.user_attrs.items() if isinstance(value, int | float)},
        **{f"params_{name}": value for name, value in trial.params.items()},
    }


def write_chart(axes: Any, path: Path, config: Config) -> None:
    """Write and close the figure of axes."""
    figure = np.ravel(axes)[0].figure
    for panel in figure.axes:
        panel.set_facecolor("white")  # Optuna's style is grey
    files.write_bytes(path, png(figure, config.report.dpi, ""))
    plt.close(figure)
