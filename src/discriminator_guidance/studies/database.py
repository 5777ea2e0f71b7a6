"""A database of studies that is asked again while its server is restarted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.exc import InterfaceError, OperationalError

from discriminator_guidance.errors import ConfigError
from discriminator_guidance.redaction import redact
from discriminator_guidance.studies.storage import PATIENCE_S

PAUSE_S = 0.5

# What Optuna asks of its storage, the calls of its cache included. Each is one transaction: it takes effect as a whole
# or, if the server goes away before, not at all.
ASKED = (
    "create_new_study", "delete_study", "get_all_studies", "get_study_id_from_name", "get_study_name_from_id",
    "get_study_directions", "get_study_user_attrs", "get_study_system_attrs", "set_study_user_attr",
    "set_study_system_attr", "_create_new_trial", "get_trial_id_from_study_id_trial_number", "get_trial", "_get_trials",
    "_get_best_trial_id", "_set_trial_param", "set_trial_state_values", "set_trial_intermediate_value",
    "set_trial_user_attr", "set_trial_system_attr",
)  # fmt: skip

Answer = TypeVar("Answer")


class GoneError(ConfigError):
    """The database does not answer, or has not for too long."""


class PatientStorage(RDBStorage):
    """Optuna's storage, of which every question is asked again while the server is away."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Show life; without a server the next time.

        Args:
            trial_id: of Optuna.
        """
        try:
            super().record_heartbeat(trial_id)
        except Exception as error:
            if not is_away(error):
                raise

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Also those whose workers died before the first sign of life, which Optuna takes for running for ever."""
        assert self.heartbeat_interval is not None
        late = datetime.now() - timedelta(seconds=2 * self.heartbeat_interval)
        trial: Any = models.TrialModel

        def silent() -> list[int]:
            with self.scoped_session() as session:
                running = session.query(trial).filter(trial.study_id == study_id, trial.state == TrialState.RUNNING)
                never = running.filter(~trial.heartbeats.any()).all()
                return [row.trial_id for row in never if row.datetime_start < late]

        known = patiently(lambda: super(PatientStorage, self)._get_stale_trial_ids(study_id), PATIENCE_S)
        return [*known, *patiently(silent, PATIENCE_S)]


def _patient(name: str) -> Callable[..., Any]:
    def ask(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return patiently(lambda: getattr(super(PatientStorage, self), name)(*arguments, **named), PATIENCE_S)

    return ask


for _name in ASKED:
    setattr(PatientStorage, _name, _patient(_name))


def patiently(ask: Callable[[], Answer], patience_s: float) -> Answer:
    """Ask a database until it answers.

    Args:
        ask: what is asked; asked again if the database is away.
        patience_s: for how long (seconds).

    Returns:
        The answer.

    Raises:
        GoneError: there was none.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_away(error):
                raise
            if time.monotonic() >= end:
                reason = redact(" ".join(str(error.__cause__ or error).split()))[:200]
                raise GoneError(
                    "a database that answers at study.storage",
                    reason,
                    "mend or start it and run the same command again",
                ) from error
        time.sleep(PAUSE_S)


def is_away(error: BaseException) -> bool:
    """Whether an error says that the server is not there, or ended the connection.

    Args:
        error: of Optuna or SQLAlchemy.

    Returns:
        False for what would be refused again.
    """
    return not isinstance(error, GoneError) and any(
        isinstance(cause, OperationalError | InterfaceError) for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
