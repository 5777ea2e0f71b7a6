"""The journal of a study is read as it is by Optuna's own tools."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from discriminator_guidance.errors import ConfigError, InputError, OutputError
from discriminator_guidance.studies.storage import StudyPlan, mend_journal, open_study, redact

from .objectives import quadratic
from .test_workers import plan_in, search

PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyPlan, optuna.Study]:
    plan = plan_in(tmp_path_factory.mktemp("ended"))
    return plan, search(plan, 5, 1, quadratic)


def told(*arguments: str | Path) -> list[dict]:
    done = subprocess.run([PROGRAMS / "optuna", *arguments, "-f", "json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    return content if isinstance(content, list) else [content]


def test_optuna_studies_lists_the_journal(ended: tuple[StudyPlan, optuna.Study]):
    plan, study = ended
    (row,) = told("studies", "--storage", plan.journal)
    assert (row["name"], row["n_trials"]) == ("tiny-search", 5)
    assert row["direction"] == ["MINIMIZE"]
    assert len(study.trials) == 5


def test_optuna_best_trial_finds_the_best(ended: tuple[StudyPlan, optuna.Study]):
    plan, study = ended
    (row,) = told("best-trial", "--study-name", plan.name, "--storage", plan.journal)
    assert row["number"] == study.best_trial.number
    assert row["params"] == pytest.approx(study.best_trial.params)


def test_optuna_dashboard_shows_the_journal(ended: tuple[StudyPlan, optuna.Study]):
    plan, _ = ended
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = plan.journal.read_bytes()
    command = [PROGRAMS / "optuna-dashboard", plan.journal, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        (shown,) = fetched(server, f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        assert shown["study_name"] == plan.name
        detail = fetched(server, f"http://127.0.0.1:{port}/api/studies/{shown['study_id']}?after=0")
        assert [trial["state"] for trial in detail["trials"]] == ["Complete"] * 5
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert plan.journal.read_bytes() == before, "to look on changes nothing"


def fetched(server: subprocess.Popen[str], url: str) -> dict:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        assert server.poll() is None, server.stderr.read() if server.stderr else ""
        try:
            with opener.open(url, timeout=30) as answer:
                return json.load(answer)
        except ConnectionError:
            time.sleep(0.1)
        except OSError as error:
            if not isinstance(getattr(error, "reason", None), ConnectionError):
                raise
            time.sleep(0.1)
    raise AssertionError(f"no answer from {url}")


def test_a_database_that_does_not_answer_is_one_line_without_the_password(tmp_path: Path):
    plan = plan_in(tmp_path, storage="postgresql+psycopg://somebody:hush@127.0.0.1:9/nowhere")
    with pytest.raises(ConfigError, match=r"study\.storage") as caught:
        open_study(plan)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_driver_that_is_not_installed_is_named(tmp_path: Path):
    plan = plan_in(tmp_path, storage="mysql+asyncmy://somebody@127.0.0.1/nowhere")
    with pytest.raises(ConfigError, match="an installed driver for the database"):
        open_study(plan)


def test_addresses_are_shown_without_user_and_password():
    assert redact("postgresql+psycopg://me:secret@host/name") == "postgresql+psycopg://***@host/name"


def test_a_whole_journal_is_left_as_it_is(ended: tuple[StudyPlan, optuna.Study], tmp_path: Path):
    plan, _ = ended
    before = plan.journal.read_bytes()
    assert not mend_journal(plan.journal)
    assert plan.journal.read_bytes() == before
    assert not mend_journal(tmp_path / "none.log")


def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path):
    plan = plan_in(tmp_path)
    search(plan, 3, 1, quadratic)
    lines = plan.journal.read_bytes().split(b"\n")
    for number in (0, len(lines) // 2, len(lines) - 2):
        damaged = [*lines]
        damaged[number] = damaged[number].replace(b"}", b"|", 1)
        plan.journal.write_bytes(b"\n".join(damaged))
        with pytest.raises(InputError, match=rf"line {number + 1} is damaged; restore it from a copy"):
            open_study(plan)
    plan.journal.write_bytes(b"\n".join(lines))
    assert len(open_study(plan).trials) == 3


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond a size, which cuts a write in its midst as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_write_that_finds_no_room_leaves_the_journal_as_it_was(tmp_path: Path, room: int):
    plan = plan_in(tmp_path)
    writer, other = open_study(plan), open_study(plan)
    before = plan.journal.read_bytes()
    told = rf"expected to write {plan.journal}; got File too large; give it room"
    with largest_file(len(before) + room), pytest.raises(OutputError, match=told):
        writer.set_user_attr("long", "x" * 500)
    assert plan.journal.read_bytes() == before
    assert not list(plan.journal.parent.glob("*.lock"))
    other.set_user_attr("short", 1)
    writer.set_user_attr("long", "y" * 200_000)
    assert other.user_attrs == writer.user_attrs == open_study(plan).user_attrs
    assert writer.user_attrs.keys() >= {"short", "long"}


def test_what_a_killed_writer_left_is_removed_by_the_next_while_others_read(tmp_path: Path):
    plan = plan_in(tmp_path)
    one, other = open_study(plan), open_study(plan)
    one.set_user_attr("before", 1)
    with plan.journal.open("ab") as stream:
        stream.write(b'{"op_code":2,"worker_id":"killed","study_id":0,"user_attr":{"to')
    assert other.user_attrs["before"] == 1
    other.set_user_attr("after", 2)
    assert one.user_attrs == other.user_attrs == open_study(plan).user_attrs
    assert one.user_attrs["after"] == 2
