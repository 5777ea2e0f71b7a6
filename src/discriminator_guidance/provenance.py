"""Where a result comes from: the commit, the DVC stage and experiment, the state of its dvc.lock."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from discriminator_guidance.artifacts.files import sha256

# Pins too are written by stages.
GENERATED = ("data", "models", "reports", "dvc.lock", "families/dvc.lock", "configs/downloads.lock.json")


def provenance(root: Path) -> dict[str, str]:
    """Describe the state of the project that a run starts from.

    Args:
        root: the project folder.

    Returns:
        `git.commit` and `git.dirty`, whether code or settings differ from it (both absent without git);
        `dvc.stage`, `dvc.experiment` and `dvc.baseline` (absent outside DVC);
        `dvc.lock.sha256` (absent before the first run).
    """
    tags: dict[str, str] = {}
    if (found := _git(root, "rev-parse", "--show-toplevel", "HEAD")) is not None:
        top, commit = found.splitlines()
        # An archive unpacked inside somebody's repository must not claim that repository's commit.
        if Path(top).resolve() == root.resolve():
            changes = _git(root, "status", "--porcelain", "--", ".", *(f":!{path}" for path in GENERATED))
            tags |= {"git.commit": commit, "git.dirty": "false" if changes == "" else "true"}
    for variable, tag in [
        ("DVC_STAGE", "dvc.stage"),
        ("DVC_EXP_NAME", "dvc.experiment"),
        ("DVC_EXP_BASELINE_REV", "dvc.baseline"),
    ]:
        if value := os.environ.get(variable):
            tags[tag] = value
    if (lock := (root / (pipeline() or "dvc.yaml")).with_suffix(".lock")).is_file():
        tags["dvc.lock.sha256"] = sha256(lock)
    return tags


def pipeline() -> str | None:
    """The file of the pipeline that DVC runs this stage for.

    Returns:
        Its path from the project folder, as `dvc repro` takes it, "families/dvc.yaml"; None for the one in the project
        folder itself, which needs no name, and outside DVC.
    """
    return os.environ.get("DVC_STAGE", "").rpartition(":")[0] or None


def _git(root: Path, *arguments: str) -> str | None:
    # Hooks export GIT_DIR and its kin, which would make git answer for another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
