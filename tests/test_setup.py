"""Set-up: the Makefile, the pins, and DVC with and without git."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with text output, without make's and git's settings of the surrounding run."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "GIT_"))}
    return subprocess.run(command, cwd=cwd, env=outer | environment, capture_output=True, text=True, check=False)


def git(*arguments: str, cwd: Path) -> None:
    """Run git as an unconfigured user would not have to."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = run("git", *identity, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr


def copy_setup(folder: Path) -> Path:
    """The files that set-up reads, in an otherwise empty folder."""
    folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    return folder


def executable(path: Path, script: str) -> Path:
    """A shell script that can be run by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


# --- Makefile


def test_help_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))
    shown = run("make", "help", cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    explained = set(re.findall(r"^  make ([a-z-]+) +\S", shown.stdout, flags=re.MULTILINE))
    assert explained == targets >= {"setup", "repro", "test", "lint", "mlflow", "dag", "clean", "help"}
    assert run("make", cwd=ROOT).stdout == shown.stdout


@pytest.mark.parametrize(("target", "work"), [("repro", ".venv/bin/dvc repro"), ("test", ".venv/bin/pytest")])
def test_set_up_comes_before_work(target: str, work: str, tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "un packed")
    plan = run("make", "-n", target, cwd=folder).stdout
    assert 0 <= plan.index("scripts/setup.sh") < plan.index("scripts/dvc_scm.sh") < plan.index(work)


def test_set_up_runs_once_for_each_folder_and_set_of_pins(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "first place")

    def plans_set_up(place: Path) -> bool:
        return "scripts/setup.sh" in run("make", "-n", "setup", cwd=place).stdout

    stamp = folder / ".venv" / ".stamp"
    stamp.parent.mkdir()
    stamp.write_text(f"{folder}\n", encoding="utf-8")
    assert not plans_set_up(folder)

    moved = folder.rename(tmp_path / "second place")
    assert plans_set_up(moved)

    (moved / ".venv" / ".stamp").write_text(f"{moved}\n", encoding="utf-8")
    assert not plans_set_up(moved)
    os.utime(moved / "constraints.txt", (2**32, 2**32))
    assert plans_set_up(moved)


def test_clean_keeps_results(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "a project")
    kept = [
        "data/mini/a",
        "models/mini/a",
        "reports/mini/a",
        ".dvc/cache/a",
        ".partial/mini/a",
        "mlflow.db",
        "src/a.py",
    ]
    removed = [
        ".venv/.stamp",
        ".mypy_cache/a",
        "src/p/__pycache__/a",
        "src/p.egg-info/a",
        "tests/__pycache__/a",
    ]
    for name in kept + removed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    done = run("make", "clean", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [name for name in kept + removed if (folder / name).exists()] == kept


# --- scripts/setup.sh


def stub_python(path: Path, *, pip_exit: int = 0) -> Path:
    """A python that passes for 3.11, makes venvs with itself inside and installs idle `dguide` and `dvc`."""
    return executable(
        path,
        f"""case "$*" in
            *"-m venv"*) rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
            *"-m pip"*)
                printf '#!/bin/sh\\n' >.venv/bin/dguide
                printf '#!/bin/sh\\necho "$@" >>called\\n' >.venv/bin/dvc
                chmod +x .venv/bin/dguide .venv/bin/dvc
                exit {pip_exit} ;;
        esac""",
    )


def test_unsuitable_python_is_one_clear_line(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "project")
    for name in ("python3.11", "python3.12", "python3", "python"):
        executable(tmp_path / "bin" / name, "echo Python 3.9.18; exit 1")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = run("sh", "scripts/setup.sh", cwd=folder, PATH=path, PYTHON="")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "3.11 or 3.12" in done.stderr
    assert "Python 3.9.18" in done.stderr
    assert not (folder / ".venv").exists()


def test_finished_set_up_leaves_a_stamp_with_its_folder(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "a project")
    python = stub_python(tmp_path / "bin" / "my python")
    done = run("sh", "scripts/setup.sh", cwd=folder, PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    assert (folder / ".venv" / ".stamp").read_text(encoding="utf-8") == f"{folder.resolve()}\n"


def test_what_dvc_unpickles_lies_where_only_the_owner_may_write(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "a project")
    done = run("sh", "scripts/setup.sh", cwd=folder, PYTHON=str(stub_python(tmp_path / "bin" / "python3.11")))
    assert done.returncode == 0, done.stderr
    place = folder.resolve() / ".dvc" / "tmp" / "site"
    assert (folder / "called").read_text(encoding="utf-8") == f"config --local core.site_cache_dir {place}\n"
    assert place.stat().st_mode & 0o777 == 0o700


def test_failed_installation_leaves_no_stamp(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "project")
    python = stub_python(tmp_path / "bin" / "python3.11")
    assert run("sh", "scripts/setup.sh", cwd=folder, PYTHON=str(python)).returncode == 0
    stub_python(folder / ".venv" / "bin" / "python", pip_exit=1)
    assert run("sh", "scripts/setup.sh", cwd=folder, PYTHON=str(python)).returncode != 0
    assert not (folder / ".venv" / ".stamp").exists()


# --- scripts/dvc_scm.sh


def sets_no_scm(folder: Path, **environment: str) -> bool:
    """Whether the script tells DVC to do without git (a recorder stands in for `dvc config`)."""
    record = folder / "asked"
    recorder = executable(folder / "recorder", f'echo "$@" >"{record}"')
    done = run("/bin/sh", "scripts/dvc_scm.sh", recorder, cwd=folder, **environment)
    assert done.returncode == 0, done.stderr
    if not record.exists():
        return False
    assert record.read_text(encoding="utf-8") == "--local core.no_scm true\n"
    return True


def test_checkout_keeps_git(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "a checkout")
    git("init", "--quiet", cwd=folder)
    assert not sets_no_scm(folder)
    (tmp_path / "link").symlink_to(folder)
    assert not sets_no_scm(tmp_path / "link")


def test_linked_worktree_keeps_git(tmp_path: Path) -> None:
    main = copy_setup(tmp_path / "main")
    git("init", "--quiet", cwd=main)
    git("add", ".", cwd=main)
    git("commit", "--quiet", "--message", "all", cwd=main)
    git("worktree", "add", "--quiet", str(tmp_path / "linked"), cwd=main)
    assert not sets_no_scm(tmp_path / "linked")


def test_archive_does_without_git(tmp_path: Path) -> None:
    assert sets_no_scm(copy_setup(tmp_path / "archive"), GIT_CEILING_DIRECTORIES=str(tmp_path))


def test_archive_inside_a_foreign_checkout_does_without_git(tmp_path: Path) -> None:
    git("init", "--quiet", cwd=tmp_path)
    assert sets_no_scm(copy_setup(tmp_path / "foreign" / "archive"))


def test_checkout_without_git_program_does_without_git(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "checkout")
    git("init", "--quiet", cwd=folder)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "grep"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    assert sets_no_scm(folder, PATH=str(tools))


def test_dvc_is_told_once(tmp_path: Path) -> None:
    folder = copy_setup(tmp_path / "archive")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    assert not sets_no_scm(folder, GIT_CEILING_DIRECTORIES=str(tmp_path))


# --- .ci/run


@pytest.mark.parametrize("verdict", [0, 3])
def test_ci_runs_the_tests_on_a_clone_of_head(verdict: int, tmp_path: Path) -> None:
    project = tmp_path / "a project"
    (project / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", project / ".ci")
    git("init", "--quiet", cwd=project)
    git("add", ".", cwd=project)
    git("commit", "--quiet", "--message", "all", cwd=project)
    (project / "uncommitted").touch()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    executable(tmp_path / "bin" / "make", f'echo "$@ in $(ls -A | xargs) with $(wc -c) bytes"; exit {verdict}')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = run(project / ".ci" / "run", cwd=tmp_path, PATH=path, TMPDIR=str(scratch))
    assert done.returncode == verdict, done.stderr
    assert "test in .ci .git with 0 bytes\n" in done.stdout
    assert not list(scratch.iterdir())


# --- constraints.txt


def constraints() -> dict[str, Requirement]:
    """The pins by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, the dev extra included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(r) for r in project["dependencies"] + project["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_pin_lies_in_declared_range(requirement: Requirement) -> None:
    pin = constraints()[canonicalize_name(requirement.name)]
    exact = [s.version for s in pin.specifier if s.operator == "=="]
    if exact:
        assert requirement.specifier.contains(exact[0])
    else:
        assert pin.specifier == requirement.specifier


def test_pins_are_complete_and_portable() -> None:
    pins = constraints()
    reached: set[str] = set()
    waiting = [(canonicalize_name(r.name), frozenset(r.extras)) for r in declared()]
    while waiting:
        name, extras = waiting.pop()
        if name in reached and not extras:
            continue
        reached.add(name)
        # What torch needs beyond pure Python differs between its CPU and CUDA builds.
        if name == "torch":
            continue
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in {"", *extras}):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    assert reached - set(pins) == set()
    ranges = {name for name, pin in pins.items() if {s.operator for s in pin.specifier} != {"=="}}
    assert ranges == {"torch", "torchvision"}
    assert not [pin for pin in pins.values() if "+" in str(pin.specifier) or pin.url]
