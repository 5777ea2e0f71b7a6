"""What a fuzzed reader may do: succeed, or say in one line what is wrong."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from discriminator_guidance.errors import UserError
from tests.amount import FULL, cases, count

HANG_S = 60

# The same cases every time in `make test`, new ones in `make test-full`.
fuzzed = settings(
    max_examples=cases(25, 1500),
    deadline=None,
    derandomize=not FULL,
    database=None,
    suppress_health_check=list(HealthCheck),
)

changes = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.sampled_from(["set", "flip", "insert", "cut", "double"])),
    min_size=1,
    max_size=5,
)


def changed(content: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    """A file with some of its bytes set, flipped, inserted, cut out or doubled."""
    result = bytearray(content)
    for position, value, kind in edits:
        at = position % (len(result) + 1)
        if kind == "insert" or not result or at == len(result):
            result.insert(at, value)
        elif kind == "set":
            result[at] = value
        elif kind == "flip":
            result[at] ^= 1 << (value % 8)
        elif kind == "cut":
            del result[at : at + 1 + value]
        else:
            result[at:at] = result[at : at + 1 + value]
    return bytes(result)


def survives(what: str, read: Callable[[], Any]) -> Any:
    """Call a reader on bad input; its result, or None if it refused in one line."""
    count(f"cases fuzzed: {what}")
    try:
        with _alarm():
            return read()
    except UserError as error:
        refusal = error
    assert refusal.remedy
    assert len(str(refusal).splitlines()) == 1
    assert len(str(refusal)) < 3000
    return None


@contextmanager
def _alarm():
    def ring(number: int, frame: object) -> None:
        raise AssertionError(f"no answer within {HANG_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
