"""The trials of a study: those it begins with, and the loop in which one process runs them, each a run in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dguide import tracking
from dguide.artifacts import Layout
from dguide.settings import Config
from dguide.studies.storage import REASON, StudyPlan, lost, open_study, recover
from discriminator_guidance.errors import ConfigError, DivergenceError, InputError

GRID = "grid"  # user attribute of the trials that a study begins with; they are never pruned

Objective = Callable[[optuna.Trial, tracking.Tracker], float]


def begin(
    config: Config, layout: Layout, plan: StudyPlan, starts: Mapping[str, Mapping[str, Any]], recover_all: bool
) -> optuna.Study:
    """Open a study, enqueue the parameters that it begins with, by their name, and what was lost."""
    study = open_study(config, layout, plan)
    recover(study, recover_all)
    for name, params in starts.items():
        study.enqueue_trial(dict(params), user_attrs={GRID: name}, skip_if_exists=True)
    return study


def wanted(trials: str, study: optuna.Study) -> int:
    """How many trials "40" (in all) or "+20" (more) means."""
    digits = trials.removeprefix("+")
    if not digits.isdecimal() or not int(digits):
        raise ConfigError("--trials as a total or as more", repr(trials), "write e.g. 40, or +20")
    return int(digits) + (count(study) if trials != digits else 0)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that need not be run any more."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and not lost(trial)]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ran to their end, the smallest value first; at least one."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials:
        raise InputError(f"a complete trial of study {study.study_name}", "none", "run it with more trials")
    return sorted(trials, key=lambda trial: (trial.value, trial.number))


def run_trials(study: optuna.Study, objective: Objective, total: int, config: Config, settings: Any) -> None:
    """Run trials until the study has `total`; other processes may do the same.

    `objective` raises `optuna.TrialPruned` to give a trial up; a trial that diverges fails for good.
    """
    if (present := count(study)) >= total:
        tracking.notice(f"study {study.study_name} has {present} trials: no more to run")
        return
    tags = {"stage": "study", "study": study.study_name, "mlflow.note.content": ", ".join(study.metric_names or ())}
    with (
        tracking.run(config.profile, f"study/{study.study_name}", tags, settings) as parent,
        tracking.bar(study.study_name, total, "trials") as advance,
    ):

        def tracked(trial: optuna.Trial) -> float:
            name, own = f"study/{study.study_name}/{trial.number}", {**tags, "trial": str(trial.number)}
            # Without a parent MLflow is off or was not reached: no use in trying for every trial.
            run = tracking.run(config.profile, name, own, {}, parent.run_id) if parent.run_id else nullcontext(parent)
            with run as tracker:
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

        shown = 0
        while (done := count(study)) < total:
            advance(done - shown)
            shown = done
            study.optimize(tracked, n_trials=1, catch=(DivergenceError,))
        advance(total - shown)
    if running := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        numbers = ", ".join(str(trial.number) for trial in running)
        tracking.notice(f"trials {numbers} of {study.study_name} run elsewhere; if they were killed, add --recover")


def count(study: optuna.Study) -> int:
    """The trials that have ended or are being run."""
    return sum(t.state != TrialState.WAITING and not lost(t) for t in study.get_trials(deepcopy=False))
