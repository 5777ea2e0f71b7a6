"""Processes that end with the one that began them, even if that is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

POLL_S = 0.5
GRACE_S = 10.0  # a signal is acted upon between two Python instructions, which a long matrix product keeps apart


def end_with_parent(already: bool = False) -> None:
    """Leave soon after the parent of this process has ended, as if told so by SIGTERM.

    Args:
        already: whether it may have ended before this call, while modules were imported; only for a process that its
            parent keeps in its own session and group, as DVC does with its stages and torchrun does not.
    """
    parent, number = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        if parent is not None:
            parent.join()
        else:
            while os.getppid() == number and not (already and _adopted(number)):
                time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="orphan", daemon=True).start()


def _adopted(parent: int) -> bool:
    """Whether a parent is the one that a system gives to orphans: it has a session, in containers a group, of its own.

    DVC may be process 1 itself, in a container that runs nothing else; then it shares both with its stage.
    """
    try:
        return os.getsid(parent) != os.getsid(0) or (parent == 1 and os.getpgid(parent) != os.getpgrp())
    except OSError:  # it has ended this instant
        return True
