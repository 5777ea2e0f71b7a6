"""Who is at which result: its writer is alone with it, and its readers keep writers away.

The kernel gives a claim back however the process ends, so that none is ever stale.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from discriminator_guidance.errors import UserError

ENTRY = re.compile(r"([1-9][0-9]{0,8}) (\S.*)")  # number and words of a process that holds a claim


class BusyError(UserError):
    """Another process is at the same result."""


@contextmanager
def claimed(folder: Path, who: str, writes: Collection[str], reads: Collection[str]) -> Iterator[None]:
    """Keep others from results while the enclosed work lasts.

    Args:
        folder: where the claims of a profile are kept; safe to delete when nothing runs.
        who: is at work, in words for those who are refused.
        writes: results that nobody else may write or read meanwhile.
        reads: results that nobody may write meanwhile.

    Yields:
        Nothing; the claim is held until the end.

    Raises:
        BusyError: somebody is at one of them; nothing is kept from others then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for name in sorted({*writes, *reads}):
            way = fcntl.LOCK_EX if name in writes else fcntl.LOCK_SH
            stream = held.enter_context((folder / f"{name}.claim").open("a+", encoding="utf-8", errors="replace"))
            if not _take(stream, way):
                raise BusyError(
                    f"{who} alone at {name}" if name in writes else f"nobody writing {name}, which {who} reads",
                    f"{_holders(stream)} at it",
                    "wait until that has ended and run the same command again",
                )
            if name in writes:
                stream.truncate(0)
            stream.write(f"{os.getpid()} {who}\n")
            stream.flush()
        yield


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until nobody else is at a file that is read, changed and written again, and keep others waiting meanwhile.

    Args:
        lock: a file beside no result; everyone who changes that file names the same one.

    Yields:
        Nothing; others wait until the end. On a file system without locks they do not.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a", encoding="utf-8") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _take(stream: IO[str], way: int) -> bool:
    try:
        fcntl.flock(stream, way | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing can be kept from anybody
        return True
    return True


def _holders(stream: IO[str]) -> str:
    stream.seek(0)
    # A machine that lost its power may have left anything there.
    entries = [found for line in stream.read().splitlines() if (found := ENTRY.fullmatch(line))]
    living = [f"process {number} ({who})" for number, who in map(re.Match.groups, entries) if _lives(int(number))]
    return ", ".join(living) or "another process"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of somebody else
        return True
    return True
