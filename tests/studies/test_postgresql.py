"""A study in a real PostgreSQL: four workers, some of them killed, and a second call as from another machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import optuna
import pytest
from optuna.trial import TrialState

from discriminator_guidance.errors import ConfigError
from discriminator_guidance.studies import database
from discriminator_guidance.studies.liveness import attempts
from discriminator_guidance.studies.storage import StudyPlan, open_study
from tests.amount import cases, count

from .objectives import deadly, quadratic
from .postgres import Server, postgres_server, server_programs
from .test_workers import CORNERS, plan_in, search, whole

pytestmark = pytest.mark.integration
HEARTBEAT_S = 3  # a trial whose worker has shown no life for twice as long counts as lost


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
def address(server: Server) -> str:
    return server.url


def plan_of(address: str, name: str, folder: Path) -> StudyPlan:
    return plan_in(folder, name=name, storage=address, heartbeat_s=HEARTBEAT_S)


def runs(folder: Path) -> list[tuple[int, int]]:
    """Number of the trial and process of every call of the objective."""
    told = (path.name.split("-") for path in folder.glob("*-*") if path.is_file())
    return [(int(number), int(pid)) for number, pid in told]


def assert_whole(study: optuna.Study, trials: int, calls: list[tuple[int, int]]) -> None:
    """No trial is lost, none is there twice, none was run by two."""
    ended = whole(study, heartbeat=True)
    assert len(ended) == trials
    assert {t.state for t in ended} == {TrialState.COMPLETE}
    assert len({tuple(t.params.values()) for t in ended}) == trials
    assert not [t for t in study.trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    ran = [number for number, _ in calls]
    assert len(ran) == len(set(ran))
    # A trial whose making the server committed without being able to say so was never run; another stands for it.
    assert {t.number for t in ended} <= set(ran) <= {t.number for t in study.trials}
    assert [t.number for t in study.trials] == list(range(len(study.trials)))


def test_four_workers_one_of_them_killed_in_the_midst_of_a_trial(address: str, tmp_path: Path):
    plan = plan_of(address, "four", tmp_path)
    study = search(plan, 24, 4, partial(deadly, tmp_path, 2))
    calls = runs(tmp_path)
    assert_whole(study, 24, calls)
    assert len({pid for _, pid in calls}) == 4, "all four took part"
    (lost,) = [t for t in study.trials if t.state == TrialState.FAIL]
    (again,) = [t for t in study.trials if attempts(t)]
    assert (lost.number, attempts(again)) == (2, [2])
    assert again.params == lost.params
    assert again.user_attrs["grid"] == lost.user_attrs["grid"] == "D2"
    assert dict(calls)[2] != dict(calls)[again.number]
    assert any("was killed" in line for line in study.notices)
    assert sorted(t.user_attrs["grid"] for t in whole(study, heartbeat=True) if "grid" in t.user_attrs) == [
        point.attrs["grid"] for point in CORNERS
    ]
    assert not (tmp_path / "study" / "search.log").exists(), "no journal beside the database"


def test_a_later_call_from_another_folder_goes_on_and_repeats_nothing(address: str, tmp_path: Path):
    first, second = tmp_path / "one machine", tmp_path / "another"
    for folder in (first, second):
        folder.mkdir()
    search(plan_of(address, "moved", first), 5, 1, partial(quadratic, 0.0, first))
    study = search(plan_of(address, "moved", second), 12, 2, partial(quadratic, 0.0, second))
    calls = runs(first) + runs(second)
    assert_whole(study, 12, calls)
    assert len({t.user_attrs["sampler_seed"] for t in study.trials}) > 1


def test_the_optuna_command_reads_the_database(address: str, tmp_path: Path):
    study = search(plan_of(address, "told", tmp_path), 4, 1, quadratic)
    command = [Path(sys.executable).parent / "optuna", "best-trial", "--study-name", "told", "--storage", address]
    done = subprocess.run(
        [*command, "-f", "json"], env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f'"number": {study.best_trial.number}' in done.stdout


def test_a_refused_password_is_not_shown(address: str, tmp_path: Path):
    wrong = address.replace("study:", "study:not-")
    with pytest.raises(ConfigError, match=r"a database that answers at study\.storage") as caught:
        open_study(plan_of(wrong, "refused", tmp_path))
    assert "not-" not in str(caught.value)


def test_the_server_is_restarted_under_four_workers(server: Server, tmp_path: Path):
    plan, trials = plan_of(server.url, "restarted", tmp_path), cases(20, 80)
    restarts = cases(1, 5)

    def restart() -> None:
        for number in range(restarts):
            while len(runs(tmp_path)) < (number + 1) * trials // (restarts + 1):
                time.sleep(0.05)
            server.stop()
            time.sleep(1)  # asked in vain meanwhile
            server.start()

    disturbing = Thread(target=restart)
    disturbing.start()
    study = search(plan, trials, 4, partial(quadratic, 0.1, tmp_path))
    disturbing.join()
    count("restarts of PostgreSQL under four workers", restarts)
    calls = runs(tmp_path)
    assert len({pid for _, pid in calls}) == 4, "all four outlived it"
    assert_whole(study, trials, calls)
    for trial in study.trials:
        x, y = trial.params["x"], trial.params["y"]
        assert trial.value == (x - 2) ** 2 + y**2


def test_a_server_that_stays_away_ends_the_study_in_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = plan_of(server.url, "gone", tmp_path)
    study = open_study(plan)
    monkeypatch.setattr(database, "PATIENCE_S", 0.1)
    server.stop()
    try:
        with pytest.raises(ConfigError, match=r"a database that answers at study\.storage.*run the same command again"):
            study.get_trials()
        with pytest.raises(ConfigError, match=r"a database that answers at study\.storage"):
            open_study(plan)
        study._storage.record_heartbeat(1)  # shows life the next time
    finally:
        server.start()
    assert study.get_trials() == []


def test_a_worker_that_died_before_its_first_sign_of_life_leaves_its_trial_to_others(address: str, tmp_path: Path):
    plan = replace(plan_of(address, "silent", tmp_path), heartbeat_s=1)
    open_study(plan).ask()
    study = search(plan, 4, 1, quadratic)
    assert len(whole(study, heartbeat=True)) == 4
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 1
    assert attempts(study.trials[1]) or any(attempts(t) == [0] for t in study.trials)
