"""Studies in a real PostgreSQL: several workers, one of them killed, and a server that is restarted or gone."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from dguide.studies import study as studies
from dguide.studies.study import storage_errors
from discriminator_guidance.core.errors import ConfigError
from tests.stages.conftest import tiny_settings, write_params
from tests.studies.postgres import Server, postgres_server, server_programs
from tests.studies.worker import CORNERS, IMPATIENT, ended, start, take_part

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    programs = server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: no `initdb`, neither on the path nor in /usr/lib/postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL driver here: psycopg is not installed")
    with postgres_server(programs) as server:
        yield server


@pytest.fixture
def shared(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder whose studies are in the database, which is empty."""
    monkeypatch.setenv("PGPASSWORD", server.password)
    monkeypatch.setattr(studies, "DATABASE", studies.DATABASE | IMPATIENT)
    write_params(tmp_path, tiny_settings({"study.storage": server.url}))
    for name in optuna.get_all_study_names(server.url):
        optuna.delete_study(study_name=name, storage=server.url)
    return tmp_path


def test_workers_share_a_study_and_the_trial_of_a_killed_one_runs_again(shared: Path):
    take_part(shared, 1)
    workers = [start(shared, 16, 0.3, "3") for _ in range(3)]
    assert sorted(worker.wait(timeout=120) for worker in workers) == [-9, 0, 0]
    time.sleep(3)  # until the dead one has shown no life for long enough
    study = take_part(shared, 16)
    assert 16 <= len(ended(study)) <= 18
    (dead,) = study.get_trials(states=(optuna.trial.TrialState.FAIL,))
    assert dead.number == 3
    again, *_ = (trial for trial in study.trials if trial.system_attrs.get("retry_history") == [3])
    assert (again.params, again.state) == (dead.params, optuna.trial.TrialState.COMPLETE)
    begun = {trial.user_attrs["grid"] for trial in ended(study) if "grid" in trial.user_attrs}
    assert begun == set(CORNERS)
    assert not list(shared.glob("reports/mini/study/*.journal")), "no journal beside the database"


def test_a_restarted_server_costs_trials_but_no_study(server: Server, shared: Path):
    worker = start(shared, 200, 0.2)
    while not (shared / "calls.txt").is_file():
        time.sleep(0.1)
    server.stop()
    assert worker.wait(timeout=60) != 0
    server.start()
    done = len(ended(take_part(shared, 1)))
    time.sleep(3)
    study = take_part(shared, done + 4)
    assert len(ended(study)) >= done + 4
    assert all(trial.value == (trial.params["x"] - 2) ** 2 + trial.params["y"] ** 2 for trial in study.best_trials)


def test_a_wrong_password_or_driver_is_one_line(server: Server, shared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGPASSWORD", "not-this-one")
    with pytest.raises(ConfigError, match="a database that answers") as caught, storage_errors():
        take_part(shared, 4)
    assert "not-this-one" not in str(caught.value)
    write_params(shared, tiny_settings({"study.storage": server.url.replace("psycopg", "pg8000")}))
    with pytest.raises(ConfigError, match=r"an installed driver for study\.storage"), storage_errors():
        take_part(shared, 4)
