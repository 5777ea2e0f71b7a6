"""A line on standard error that shows how far long work is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from discriminator_guidance.core.runtime import is_first

EVERY_S = {True: 0.2, False: 10.0}  # between two lines, on a terminal and elsewhere


@contextmanager
def progress_line(description: str, total: int, unit: str, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many units are done; those of its first call may be an earlier run's."""
    terminal, begun, last = sys.stderr.isatty(), list[tuple[float, int]](), 0.0

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        begun.extend([] if begun else [(now, done)])
        if not shown or not is_first() or (now - last < EVERY_S[terminal] and done < total):
            return
        (start, earlier), last = begun[0], now
        left = (now - start) / (done - earlier) * (total - done) if done > earlier else None
        text = f"{description}: {done}/{total} {unit}" + ("" if left is None else f", {left:.0f} s left")
        print(f"\r{text:<78}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    yield tell
    if terminal and last:
        print(file=sys.stderr)
