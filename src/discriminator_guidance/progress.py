"""What a person sees: a bar while something runs, a table at the end, or plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

SHORT_S = 2.0
LINE_EVERY_S = 10.0

Advance = Callable[[int], None]


@contextmanager
def bar(
    description: str,
    total: int,
    unit: str,
    *,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Advance]:
    """Show how far the enclosed work has come, with its rate and the time it still needs.

    On a terminal that is a bar, wiped away if the work took less than two seconds. Elsewhere it is a plain
    line every ten seconds and one at the end, nothing at all for work under two seconds.

    Args:
        description: what is being done, e.g. `discriminator d0`.
        total: how much there is to do, in units.
        unit: what is counted, in the plural.
        console: where to show it (default: standard error).
        clock: seconds, from any origin.

    Yields:
        A function to be called with the number of units that were done since its last call.
    """
    console = console or Console(stderr=True)
    show = _live_bar if _is_screen(console) else _plain_lines
    with show(console, clock, description, total, unit) as advance:
        yield advance


def summary(title: str, rows: Sequence[Mapping[str, object]], console: Console | None = None) -> None:
    """Show results as a table, aligned plain lines where there is no terminal.

    Args:
        title: what the table shows.
        rows: values by column name; columns stand in the order in which names first appear.
        console: where to show it (default: standard output).
    """
    console = console or Console()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_shown(row.get(column, "")) for column in columns] for row in rows]
    if _is_screen(console):
        table = Table(title=Text(title), title_justify="left")
        for column in columns:
            table.add_column(Text(column), overflow="fold")
        for line in cells:
            table.add_row(*(Text(cell) for cell in line))
        console.print(table)
        return
    widths = [max(map(len, entries)) for entries in zip(columns, *cells, strict=True)]
    _print_line(console, title)
    for line in [columns, *cells]:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        _print_line(console, f"  {padded.rstrip()}")


def complain(message: str, console: Console | None = None) -> None:
    """Show an error as one line.

    Args:
        message: what is wrong and what to do about it.
        console: where to show it (default: standard error).
    """
    console = console or Console(stderr=True)
    line = Text.assemble(("error: ", "bold red"), _plain(message))
    console.print(line, soft_wrap=True, highlight=False)


def notice(message: str, console: Console | None = None) -> None:
    """Show one line that is worth knowing and no error.

    Args:
        message: what happened.
        console: where to show it (default: standard error).
    """
    console = console or Console(stderr=True)
    console.print(Text.assemble(("note: ", "bold yellow"), _plain(message)), soft_wrap=True, highlight=False)


def _plain(message: str) -> str:
    """One line without codes that would steer the terminal: names of files may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))


class _RateColumn(ProgressColumn):
    """Units done per second, averaged from the start."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task.completed, task.finished_time or task.elapsed or 0.0, self._unit))


@contextmanager
def _live_bar(
    console: Console, clock: Callable[[], float], description: str, total: int, unit: str
) -> Iterator[Advance]:
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        _RateColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        get_time=clock,
    )
    start = clock()
    with progress:
        task = progress.add_task(description, total=total)
        try:
            yield lambda count: progress.advance(task, count)
        finally:
            progress.live.transient = clock() - start < SHORT_S


@contextmanager
def _plain_lines(
    console: Console, clock: Callable[[], float], description: str, total: int, unit: str
) -> Iterator[Advance]:
    start = last_line = clock()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last_line
        done += count
        now = clock()
        if now - last_line >= LINE_EVERY_S and done < total:
            last_line = now
            rate = _rate(done, now - start, unit)
            left = f", {_duration((now - start) / done * (total - done))} left" if done else ""
            _print_line(console, f"{description}: {done}/{total} {unit}, {rate}{left}")

    try:
        yield advance
    finally:
        if (elapsed := clock() - start) >= SHORT_S:
            rate = _rate(done, elapsed, unit)
            _print_line(console, f"{description}: {done}/{total} {unit} in {_duration(elapsed)}, {rate}")


def _is_screen(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _print_line(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _rate(done: float, elapsed_s: float, unit: str) -> str:
    if not done or elapsed_s <= 0:
        return f"- {unit}/s"
    rate = done / elapsed_s
    return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
