"""Worker processes that share a study until it has the wanted number of trials.

Any of them may be killed, more may join from another terminal, and a later call goes on where an earlier one ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from discriminator_guidance.errors import DivergenceError, InputError, UserError
from discriminator_guidance.orphans import end_with_parent
from discriminator_guidance.studies.liveness import INTERRUPTED, REASON, WORKER, Crew, recover, retried, settled
from discriminator_guidance.studies.storage import PATIENCE_S, StudyPlan, mend_journal, open_study

if TYPE_CHECKING:
    from discriminator_guidance.stages.context import Bar

POLL_S = 0.5
SAMPLER_SEED = "sampler_seed"  # user attribute of a trial

Objective = Callable[[optuna.Trial], float | Sequence[float]]
ObjectiveFactory = Callable[[], Objective]  # called once in each worker; can be pickled
OnFinished = Callable[[FrozenTrial], None]


@dataclass(frozen=True)
class Enqueued:
    """A trial that is run before anything is searched, once in the life of a study."""

    params: Mapping[str, Any]
    attrs: Mapping[str, Any]  # user attributes, e.g. {"grid": "D0"}


def run_study(
    plan: StudyPlan,
    trials: int | None,
    workers: int,
    objective_factory: ObjectiveFactory,
    enqueue: Sequence[Enqueued],
    bar: Bar,
    notice: Callable[[str], None],
    on_finished: OnFinished,
) -> optuna.Study:
    """Run a study until it has a number of trials, those of earlier calls included.

    A search is an objective, the trials it starts from, and a plan. The objective is made in each worker, so that
    networks are read there once. It suggests all its parameters first, reports with `trial.report(value, step)`, and
    raises `optuna.TrialPruned` where `trial.should_prune()` says so. A `DivergenceError` fails its trial for good;
    any other error ends the study, and its trial is tried again by the next call.

    Args:
        plan: the study.
        trials: how many there shall be at the end: complete, pruned or failed for good; None: those that were ever
            enqueued, so that nothing is searched.
        workers: processes.
        objective_factory: () -> (trial -> value or values); can be pickled, e.g. a `functools.partial` of a function
            that stands at the top of its module.
        enqueue: run first, in this order; those that the study has already are left out.
        bar: opens a progress bar.
        notice: shows the user one line.
        on_finished: told each trial that ended on this machine, soon after and once; of a call that was killed, those
            it could not tell.

    Returns:
        The study.

    Raises:
        ConfigError: the study was begun with other settings, or its storage cannot be opened.
        InputError: all workers were killed before the end.
        UserError: of a worker's objective.
        KeyboardInterrupt: after the workers have ended; the trials they were at are tried again by the next call.
    """
    crew = crew_of(plan)
    with crew.claim:
        if plan.storage is None and not crew.anybody() and mend_journal(plan.journal):
            notice(f"the last line of {plan.journal.name} was not written to its end and is left out")
        study = open_study(plan)
        if again := recover(study, crew):
            notice(f"trials {', '.join(map(str, again))} died with their workers and are tried again")
        for one in enqueue:
            study.enqueue_trial(dict(one.params), user_attrs=dict(one.attrs), skip_if_exists=True)
        begun = len(study.trials)
        if trials is None:
            trials = begun - len(retried(study.trials))
    team = _Team(plan, trials, workers, objective_factory, begun)
    with bar(plan.name, trials, "trials") as advance:
        _follow(study, crew, team, advance, notice, on_finished)
    return study


def crew_of(plan: StudyPlan) -> Crew:
    """The workers of a study on this machine.

    Args:
        plan: the study.

    Returns:
        They and their lock files, beside the journal.
    """
    return Crew(plan.journal.parent / f"{plan.name}.workers", heartbeat=plan.storage is not None)


def sampler_of(plan: StudyPlan, begun: int, worker: int) -> tuple[BaseSampler, int]:
    """A tree-structured Parzen estimator whose draws are its own.

    Args:
        plan: the study.
        begun: number of trials the study had when its workers were started.
        worker: number of the worker, from 0.

    Returns:
        The sampler and its seed, a hash of (seed, begun, worker): sums of the three would meet again, and a worker that
        is seeded like an earlier one repeats that one's start-up trials.
    """
    seed = int(np.random.SeedSequence([plan.seed, begun, worker]).generate_state(1)[0])
    return TPESampler(seed=seed, multivariate=True, constant_liar=True), seed


def work(plan: StudyPlan, trials: int, objective: Objective, sampler: BaseSampler, attrs: Mapping[str, Any]) -> None:
    """Run trials, one after the other, until the study has enough.

    Args:
        plan: the study.
        trials: how many there shall be.
        objective: trial -> value or values.
        sampler: of this worker.
        attrs: user attributes for each of its trials.
    """
    crew, study = crew_of(plan), open_study(plan, sampler, PATIENCE_S)
    with crew.enlisted() as name:
        while True:
            crew.claim.acquire()
            try:
                recover(study, crew)
                # Running ones are counted first: one that ends in between is then counted twice and not left out.
                running, done = _running(study), len(settled(study, crew.heartbeat))
                if done < trials and done + running < trials:
                    # The trial is signed before the claim is let go: one that runs without a name has no worker.
                    signed = _Signed(objective, crew, {WORKER: name, **attrs})
                    # A trial that has ended meanwhile showed no life for too long: it is tried again by somebody.
                    with suppress(UpdateFinishedTrialError):
                        study.optimize(signed, n_trials=1, catch=(DivergenceError,))
                    continue
            finally:
                crew.claim.release(force=True)
            if done >= trials:
                return
            time.sleep(POLL_S)  # others are at the last trials; if one dies, its trial is run here


class _Signed:
    """An objective that first puts the worker's name to the trial, and says how it failed."""

    def __init__(self, objective: Objective, crew: Crew, attrs: Mapping[str, Any]) -> None:
        self._objective, self._crew, self._attrs = objective, crew, attrs

    def __call__(self, trial: optuna.Trial) -> float | Sequence[float]:
        for key, value in {**self._attrs, INTERRUPTED: False}.items():
            trial.set_user_attr(key, value)
        self._crew.claim.release(force=True)
        try:
            return self._objective(trial)
        except optuna.TrialPruned:
            raise
        except DivergenceError as error:
            trial.set_user_attr(REASON, str(error))
            raise
        except BaseException:
            trial.set_user_attr(INTERRUPTED, True)
            raise


class _Team:
    """The processes of one call."""

    def __init__(self, plan: StudyPlan, trials: int, workers: int, factory: ObjectiveFactory, begun: int) -> None:
        context = multiprocessing.get_context("spawn")  # torch and its threads do not survive a fork
        self.trials, self.members = trials, list[BaseProcess]()
        self._ends: list[Connection] = []
        for number in range(workers):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_worker, args=(plan, trials, factory, begun, number, there), daemon=True)
            # Ctrl-C reaches every process of the terminal; the parent alone decides, and says so once. What is ignored
            # here is ignored by the worker from its first instant, before it has imported anything.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                process.start()
            finally:
                signal.signal(signal.SIGINT, handler)
            there.close()
            self.members.append(process)
            self._ends.append(here)

    def running(self) -> bool:
        return any(process.is_alive() for process in self.members)

    def stop(self) -> None:
        for process in self.members:
            process.terminate()
        for process in self.members:
            process.join()

    def complaint(self) -> UserError | None:
        """The first error that a worker met."""
        for end in self._ends:
            if end.poll():
                try:
                    return UserError(*end.recv())
                except EOFError:
                    continue
        return None


def _follow(
    study: optuna.Study,
    crew: Crew,
    team: _Team,
    advance: Callable[[int], None],
    notice: Callable[[str], None],
    on_finished: OnFinished,
) -> None:
    """Show and pass on what the workers finish, until they have ended."""
    shown, seen, fallen = 0, set[int](), set[int | None]()
    try:
        while True:
            running = team.running()
            done = len(settled(study, crew.heartbeat))
            advance(done - shown)
            shown = done
            for trial in study.get_trials(deepcopy=False):
                if trial.state.is_finished() and trial.number not in seen:
                    seen.add(trial.number)
                    if crew.first_to_tell(trial):
                        on_finished(trial)
            for process in team.members:
                if process.exitcode not in (None, 0, 1) and process.pid not in fallen:
                    fallen.add(process.pid)
                    notice(f"worker {process.pid} was killed; another one tries its trial again")
            if not running:
                break
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        team.stop()
        with crew.claim:
            recover(study, crew)
        raise
    if (complaint := team.complaint()) is not None:
        raise complaint
    if any(process.exitcode for process in team.members) and len(settled(study, crew.heartbeat)) < team.trials:
        got = "all were killed" if len(fallen) == len(team.members) else "none that lives"
        raise InputError(f"workers of {study.study_name} that live", got, "run the same command again")


def _worker(
    plan: StudyPlan, trials: int, factory: ObjectiveFactory, begun: int, number: int, parent: Connection
) -> None:
    signal.signal(signal.SIGTERM, _leave)
    end_with_parent()
    try:
        sampler, seed = sampler_of(plan, begun, number)
        work(plan, trials, factory(), sampler, {SAMPLER_SEED: seed})
    except Exception as error:
        if (told := _told(error)) is None:
            raise
        parent.send(told)
        sys.exit(1)


def _told(error: BaseException) -> tuple[str, str, str] | None:
    """The three parts of an error that a user can cure, or None."""
    # Optuna asserts that a trial has ended, and so hides why it could not be written that it has.
    if isinstance(error, AssertionError) and error.__context__ is not None:
        return _told(error.__context__)
    if isinstance(error, UserError):
        return error.expected, error.got, error.remedy
    if isinstance(error, OSError):
        place = error.filename or "the files of the study"
        remedy = "give it room and permission and run the same command again; every finished trial is kept"
        return f"to read and write {place}", str(error.strerror or error), remedy
    return None


def _leave(number: int, frame: object) -> NoReturn:
    # An exception could come out anywhere inside Optuna. The trial is left to those who look after the dead.
    os._exit(1)


def _running(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
