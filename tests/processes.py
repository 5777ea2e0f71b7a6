"""Processes of tests: whether they have ended, and what they leave behind."""

from __future__ import annotations

import os
import time

import psutil


def gone(process: int, within_s: float = 30.0) -> bool:
    """Whether a process ends in time.

    Args:
        process: its number.
        within_s: longest wait (seconds).

    Returns:
        True also for one that has ended and that nobody has waited for.
    """
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def group_gone(group: int, within_s: float = 30.0) -> bool:
    """Whether all processes of a group end in time.

    Args:
        group: number of the process that leads it, or led it.
        within_s: longest wait (seconds).
    """
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def descendants(process: int) -> list[int]:
    """Numbers of the processes that a process has begun, and that these have begun.

    Args:
        process: its number.

    Returns:
        Those that live.
    """
    try:
        return [child.pid for child in psutil.Process(process).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
