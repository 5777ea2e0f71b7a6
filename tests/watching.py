"""Processes that note what of theirs could run code of others: what they unpickle by name, and shells they start."""

from __future__ import annotations

import os
from pathlib import Path

HOOK = Path(__file__).with_name("watched")


def watched(log: Path, *paths: Path) -> dict[str, str]:
    """What the environment of a process needs so that it and its children are watched.

    Args:
        log: file for what they do.
        paths: to import from, in place of those of this process.

    Returns:
        Variables to add.
    """
    inherited = [*map(str, paths)] or [*filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join([str(HOOK), *inherited]), "WATCHED": str(log)}


def noted(log: Path) -> set[tuple[str, str]]:
    """What was done.

    Args:
        log: as above.

    Returns:
        Pairs: the module that asked for it; the name that was looked up, or "a shell".
    """
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {(who, what) for who, _, what in (line.partition("\t") for line in lines)}
