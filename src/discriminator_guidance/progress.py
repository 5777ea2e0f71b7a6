"""What a person sees in a terminal: a progress bar, a table of results, a line worth knowing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from discriminator_guidance import distributed

LINE_EVERY_S = 10.0  # without a terminal, where a bar would fill a log


@contextmanager
def bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error; yields a function to be called with the number of units just done."""
    console = Console(stderr=True, quiet=not distributed.is_first())
    if not console.is_terminal:
        with _lines(console, description, total, unit) as advance:
            yield advance
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _lines(console: Console, description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    start = shown = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown >= LINE_EVERY_S:
            shown = now
            left = (now - start) / max(done, 1) * (total - done)
            _print(console, f"{description}: {done}/{total} {unit}, {left:.0f} s left")

    yield advance
    if time.monotonic() - start >= 1:
        _print(console, f"{description}: {done}/{total} {unit} in {time.monotonic() - start:.0f} s")


def summary(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print results as a table on standard output; plain aligned columns where there is no terminal."""
    console = Console()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_shown(row.get(column, "")) for column in columns] for row in rows]
    if console.is_terminal:
        table = Table(title=Text(title), title_justify="left")
        for column in columns:
            table.add_column(Text(column))
        for line in cells:
            table.add_row(*map(Text, line))
        console.print(table)
        return
    widths = [max(map(len, entries)) for entries in zip(columns, *cells, strict=True)]
    _print(console, title)
    for line in [columns, *cells]:
        _print(console, "  " + "  ".join(map(str.ljust, line, widths)).rstrip())


def notice(message: str) -> None:
    """Print one line worth knowing on standard error."""
    _print(Console(stderr=True), f"note: {message}")


def complain(message: str) -> None:
    """Print one error line on standard error."""
    _print(Console(stderr=True), f"error: {message}")


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
