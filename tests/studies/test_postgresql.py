"""Studies in a PostgreSQL server: several workers, one of them killed, and a server that is restarted or gone."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from dguide.studies import study as studies
from dguide.studies.study import storage_errors
from discriminator_guidance.core.errors import ConfigError
from tests.stages.conftest import tiny_settings, write_params
from tests.studies.worker import CORNERS, IMPATIENT, codes, ended, start, take_part

pytestmark = pytest.mark.integration
FOLDERS = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
INITDB = shutil.which("initdb", path=os.pathsep.join(FOLDERS))
PASSWORD = "of-the-tests"


class Server:
    """A server on loopback that is stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        self.run("initdb", "--no-sync", "--auth=scram-sha-256", "--username=study", f"--pwfile={folder / 'password'}")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, as another user where it would refuse to run: as root."""
        command = [Path(str(INITDB)).resolve().with_name(program), *arguments, "--pgdata", self.folder / "data"]
        identity = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, **identity)

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -c unix_socket_directories="
        self.run("pg_ctl", "start", "--wait", f"--log={self.folder / 'log'}", "--options", options)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "--mode=fast")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if INITDB is None:
        pytest.skip("no PostgreSQL server here: no `initdb`, neither on the path nor in /usr/lib/postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL driver here: psycopg is not installed")
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # pytest's own are closed to other users
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        server = Server(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def shared(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder whose studies are in the database, which is empty."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setattr(studies, "DATABASE", studies.DATABASE | IMPATIENT)
    url = f"postgresql+psycopg://study@127.0.0.1:{server.port}/postgres"
    write_params(tmp_path, tiny_settings({"study.storage": url}))
    for name in optuna.get_all_study_names(url):
        optuna.delete_study(study_name=name, storage=url)
    return tmp_path


def test_workers_share_a_study_and_the_trial_of_a_killed_one_runs_again(shared: Path) -> None:
    take_part(shared, 1)
    workers = [start(shared, 16, 0.3, 3) for _ in range(3)]
    assert codes(workers) == [-9, 0, 0]
    time.sleep(3)  # until the dead one has shown no life for long enough
    study = take_part(shared, 16)
    assert 16 <= len(ended(study)) <= 18
    (dead,) = study.get_trials(states=(TrialState.FAIL,))
    again, *_ = (trial for trial in study.trials if trial.system_attrs.get("retry_history") == [3])
    assert (dead.number, dead.params) == (3, again.params)
    assert {*CORNERS} == {trial.user_attrs["grid"] for trial in ended(study) if "grid" in trial.user_attrs}
    assert not list(shared.glob("reports/mini/study/*.journal")), "no journal beside the database"


def test_a_restarted_server_costs_trials_but_no_study(server: Server, shared: Path) -> None:
    worker = start(shared, 200, 0.2)
    while not (shared / "calls.txt").is_file():
        time.sleep(0.1)
    server.stop()
    assert codes([worker]) != [0]
    server.start()
    done = len(ended(take_part(shared, 1)))
    time.sleep(3)
    assert len(ended(take_part(shared, done + 4))) >= done + 4


def test_a_wrong_password_or_driver_is_one_line(server: Server, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "not-this-one")
    with pytest.raises(ConfigError, match="does not answer") as caught, storage_errors():
        take_part(shared, 4)
    assert "not-this-one" not in str(caught.value)
    address = f"postgresql+pg8000://study@127.0.0.1:{server.port}/postgres"
    write_params(shared, tiny_settings({"study.storage": address}))
    with pytest.raises(ConfigError, match=r"study\.storage cannot be opened: Failed to import"), storage_errors():
        take_part(shared, 4)
