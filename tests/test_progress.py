"""Progress: a live bar on a terminal, sparse plain lines elsewhere, an aligned table at the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from discriminator_guidance.progress import bar, complain, summary

ERASE_LINE = "\x1b[2K"


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def file_console() -> Console:
    """A console that writes to a file, narrower than the lines."""
    return Console(file=io.StringIO(), force_terminal=False, width=30)


def terminal_console() -> Console:
    """A console that writes to a terminal."""
    return Console(file=io.StringIO(), force_terminal=True, width=140, _environ={"TERM": "xterm"})


def written(console: Console) -> str:
    """Everything that a console wrote."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_come_every_ten_seconds_and_at_the_end() -> None:
    clock, console = Clock(), file_console()
    with bar("sampling d0", 1000, "images", console=console, clock=clock) as advance:
        for _ in range(25):
            clock.sleep(1.0)
            advance(40)
    assert written(console).splitlines() == [
        "sampling d0: 400/1000 images, 40 images/s, 15 s left",
        "sampling d0: 800/1000 images, 40 images/s, 5 s left",
        "sampling d0: 1000/1000 images in 25 s, 40 images/s",
    ]


def test_many_small_steps_do_not_flood_a_file() -> None:
    clock, console = Clock(), file_console()
    with bar("training", 10_000, "iterations", console=console, clock=clock) as advance:
        for _ in range(10_000):
            clock.sleep(0.0078125)
            advance(1)
    assert len(written(console).splitlines()) == 8
    assert written(console).splitlines()[-1] == "training: 10000/10000 iterations in 1 min 18 s, 128 iterations/s"


def test_work_under_two_seconds_writes_nothing_to_a_file() -> None:
    clock, console = Clock(), file_console()
    with bar("quick", 2, "steps", console=console, clock=clock) as advance:
        advance(1)
        clock.sleep(1.9)
        advance(1)
    assert written(console) == ""


def test_work_that_breaks_off_says_how_far_it_came() -> None:
    clock, console = Clock(), file_console()

    def break_off() -> None:
        with bar("training", 60, "epochs", console=console, clock=clock) as advance:
            advance(3)
            clock.sleep(6.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert written(console) == "training: 3/60 epochs in 6 s, 0.5 epochs/s\n"


def test_plain_lines_keep_square_brackets_and_hours() -> None:
    clock, console = Clock(), file_console()
    with bar("[bold] d0", 4, "epochs", console=console, clock=clock) as advance:
        clock.sleep(3600.0)
        advance(1)
    assert written(console).splitlines()[0] == "[bold] d0: 1/4 epochs, 0.000278 epochs/s, 3 h 00 min left"


def test_a_terminal_shows_a_bar_with_rate_and_remaining_time() -> None:
    clock, console = Clock(), terminal_console()
    with bar("sampling d0", 100, "images", console=console, clock=clock) as advance:
        for _ in range(3):
            clock.sleep(10.0)
            advance(20)
    text = written(console)
    assert "sampling d0" in text
    assert "60/100" in text
    assert "2 images/s" in text
    assert "0:00:20" in text
    assert not text.endswith(ERASE_LINE)


def test_a_terminal_is_wiped_after_work_under_two_seconds() -> None:
    clock, console = Clock(), terminal_console()
    with bar("quick", 1, "steps", console=console, clock=clock) as advance:
        clock.sleep(1.0)
        advance(1)
    assert written(console).endswith(ERASE_LINE)


def test_bars_nest_on_a_terminal() -> None:
    clock, console = Clock(), terminal_console()
    with bar("evaluating d0", 2, "metrics", console=console, clock=clock) as outer:
        with bar("extracting features", 10, "images", console=console, clock=clock) as inner:
            clock.sleep(5.0)
            inner(10)
        outer(2)
    assert "10/10" in written(console)
    assert "2/2" in written(console)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=140, _environ={"TERM": "dumb"})
    with bar("training", 1, "epochs", console=console, clock=clock) as advance:
        clock.sleep(4.0)
        advance(1)
    assert written(console) == "training: 1/1 epochs in 4 s, 0.25 epochs/s\n"


def test_summary_aligns_plain_lines() -> None:
    console = file_console()
    summary(
        "results [mini]",
        [{"variant": "edm", "FID": 12.3456}, {"variant": "ensemble_logit", "N": 1438}],
        console,
    )
    assert written(console).splitlines() == [
        "results [mini]",
        "  variant         FID    N",
        "  edm             12.35",
        "  ensemble_logit         1438",
    ]


def test_summary_is_a_table_on_a_terminal() -> None:
    console = terminal_console()
    summary("results", [{"variant": "[edm]", "FID": 12.3456}], console)
    text = written(console)
    assert "results" in text
    assert "[edm]" in text
    assert "12.35" in text
    assert "┃" in text


def test_summary_of_nothing_is_its_title() -> None:
    console = file_console()
    summary("results", [], console)
    assert written(console).split() == ["results"]


def test_an_error_is_one_line_however_long() -> None:
    console = file_console()
    complain("expected a number in configs/[mini].yaml;\n got 'two'; write 2", console)
    assert written(console) == "error: expected a number in configs/[mini].yaml; got 'two'; write 2\n"
