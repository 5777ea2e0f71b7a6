"""Provenance: the commit of this project and no other, and what DVC says."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from discriminator_guidance.provenance import pipeline, provenance


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out whatever git and DVC exported."""
    for variable in list(os.environ):
        if variable.startswith(("GIT_", "DVC_")):
            monkeypatch.delenv(variable)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project with one commit."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src" / "code.py").write_text("x = 1\n")
    (root / "dvc.lock").write_text("a\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "first")
    return root


def git(root: Path, *arguments: str) -> str:
    """Run git in a folder."""
    done = subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_clean_commit(repository: Path) -> None:
    tags = provenance(repository)
    assert tags["git.commit"] == git(repository, "rev-parse", "HEAD")
    assert tags["git.dirty"] == "false"


@pytest.mark.parametrize("name", ["src/code.py", "src/new.py", "params.yaml", "configs/mini.yaml"])
def test_changed_or_new_code_and_settings_make_it_dirty(repository: Path, name: str) -> None:
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("x = 2\n")
    assert provenance(repository)["git.dirty"] == "true"


@pytest.mark.parametrize(
    "name",
    [
        "dvc.lock",
        "families/dvc.lock",
        "reports/mini/fid.json",
        "models/mini/metrics.json",
        "configs/downloads.lock.json",
    ],
)
def test_results_do_not_make_it_dirty(repository: Path, name: str) -> None:
    (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / name).write_text("2\n")
    assert provenance(repository)["git.dirty"] == "false"


def test_a_foreign_repository_around_the_project_does_not_count(repository: Path) -> None:
    unpacked = repository / "unpacked"
    unpacked.mkdir()
    assert provenance(unpacked) == {}


def test_git_variables_of_a_hook_do_not_mislead(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert "git.commit" in provenance(repository)


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert provenance(tmp_path) == {}


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert set(provenance(repository)) == {"dvc.lock.sha256"}


def test_what_dvc_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.lock").write_bytes(b"stages: {}\n")
    monkeypatch.setenv("DVC_STAGE", "discriminator@mini-d0")
    monkeypatch.setenv("DVC_EXP_NAME", "lucid-lynx")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    assert provenance(tmp_path) == {
        "dvc.stage": "discriminator@mini-d0",
        "dvc.experiment": "lucid-lynx",
        "dvc.baseline": "abc",
        "dvc.lock.sha256": hashlib.sha256(b"stages: {}\n").hexdigest(),
    }


def test_a_stage_of_another_pipeline_names_its_file_and_has_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "families").mkdir()
    (tmp_path / "dvc.lock").write_bytes(b"stages: {}\n")
    (tmp_path / "families" / "dvc.lock").write_bytes(b"other\n")
    monkeypatch.setenv("DVC_STAGE", "families/dvc.yaml:report@mini-families")
    assert pipeline() == "families/dvc.yaml"
    assert provenance(tmp_path)["dvc.lock.sha256"] == hashlib.sha256(b"other\n").hexdigest()
    monkeypatch.setenv("DVC_STAGE", "report@mini")
    assert pipeline() is None
