"""Large libraries, imported without garbage collection, which would look through all they make again and again."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_open: list[bool] = []  # for each import under way, in any thread: whether collection was on before the first of them


@contextmanager
def uncollected(module: str) -> Iterator[None]:
    """Enclose the first import of a module in this process; what is there at its end is never looked through again.

    Args:
        module: the library, by its full name; nothing happens where it has been imported before.

    Yields:
        Nothing.
    """
    if module in sys.modules:
        yield
        return
    with _lock:
        _open.append(_open[0] if _open else gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            if _open.pop() and not _open:
                gc.freeze()
                gc.enable()
