"""What git says of a project folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(root: Path, *arguments: str) -> str:
    """The output of git for a project folder; empty where it is not a checkout of its own."""
    if not (root / ".git").exists():
        return ""  # an archive unpacked inside another repository must not claim that repository's commit
    # Hooks export GIT_DIR and its kin, which would make git answer for another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
