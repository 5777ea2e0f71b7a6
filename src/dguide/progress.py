"""Output in a terminal: a progress bar, a table of results, a notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import HEAVY_HEAD
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from discriminator_guidance import distributed

# Without a terminal, where a bar would fill a log and lines are as long as they have to be.
LINE_EVERY_S, PLAIN_WIDTH = 10.0, 10_000


@contextmanager
def bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error; yields a function to be called with the number of units just done."""
    console = Console(stderr=True, quiet=not distributed.is_first() or distributed.local_rank() > 0)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TimeRemainingColumn())
    shown = Progress(
        TextColumn("{task.description}", markup=False), *columns, console=console, disable=not console.is_terminal
    )
    shown.add_task(description, total=total)
    (task,) = shown.tasks
    start = said = time.monotonic()

    def advance(count: int) -> None:
        nonlocal said
        shown.advance(task.id, count)
        now = time.monotonic()
        if shown.disable and now - said >= LINE_EVERY_S:
            said = now
            left = (now - start) / max(task.completed, 1) * (total - task.completed)
            _print(console, f"{description}: {task.completed:.0f}/{total} {unit}, {left:.0f} s left")

    with shown:
        yield advance
    if shown.disable and (took := time.monotonic() - start) >= 1:
        _print(console, f"{description}: {task.completed:.0f}/{total} {unit} in {took:.0f} s")


def summary(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print results as a table on standard output; plain aligned columns where there is no terminal."""
    console = Console()
    table = Table(box=HEAVY_HEAD)
    if not console.is_terminal:
        table.box, console.width = None, PLAIN_WIDTH
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*(Text(_shown(row.get(column, ""))) for column in columns))
    console.print(Group(Text(title), table))  # in one write: other processes print too


def notice(message: str, kind: str = "note") -> None:
    """Print one line on standard error."""
    _print(Console(stderr=True), f"{kind}: {message}")


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
