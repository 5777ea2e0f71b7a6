"""A stage by several ranks on this machine: the command starts itself that many times, with torchrun's variables.

torchrun itself is not used: the place where its agents meet listens to the whole network and unpickles what it is told.
Here the ranks find each other through a store of addresses that listens on the loopback interface, as they do.

Environment:
    DGUIDE_RANKS: how many processes share a stage (default 1). It decides how soon a result is there, not what it is,
        so it is no setting of a profile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from discriminator_guidance import ranks
from discriminator_guidance.errors import ConfigError, UserError

MOST_RANKS = 1024
POLL_S = 0.1
GRACE_S = 30.0  # for a rank to close what it tracks
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# Names the file in which a rank leaves what it has to say of its end.
LAST_WORDS = "DGUIDE_LAST_WORDS"


class RankError(UserError):
    """What a rank said before it ended.

    Args:
        line: to be shown as it is.
    """

    def __init__(self, line: str) -> None:
        Exception.__init__(self, line)


def wanted_ranks() -> int:
    """How many ranks this process is to start.

    Returns:
        DGUIDE_RANKS; 1 in a process that is a rank itself.

    Raises:
        ConfigError: it is not a number of processes.
    """
    text = os.environ.get("DGUIDE_RANKS") or "1"
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_RANKS):
        raise ConfigError(f"1 to {MOST_RANKS} in DGUIDE_RANKS", repr(text), "mend it or unset it")
    return 1 if ranks.started()[1] > 1 else int(text)


def crowding(count: int, threads: int, cores: int) -> str | None:
    """What to say of ranks that will wait for each other's threads.

    Args:
        count: ranks on this machine, all on its CPU.
        threads: of each, as runtime.threads says.
        cores: that they share.

    Returns:
        One line, or None where there is a core for each thread.
    """
    if count * threads <= cores:
        return None
    return (
        f"{count} ranks of {threads} threads (runtime.threads) on {cores} cores: "
        "many times slower than one rank; take fewer ranks or threads"
    )


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run a command of `dguide` in several ranks and wait for all of them.

    Args:
        count: how many.
        arguments: of `dguide`.

    Raises:
        UserError: one of them failed; the others are ended.
        KeyboardInterrupt: so are all, at an interruption.
        SystemExit: and at another signal that asks this process to end.
    """
    command = [sys.executable, "-m", "discriminator_guidance.cli", *arguments]
    crew: list[subprocess.Popen[bytes]] = []
    with (
        _noted_signals() as stops,
        tempfile.TemporaryDirectory(prefix="dguide-ranks-") as folder,
        _meeting_place(count) as told,
    ):
        words = [Path(folder) / str(rank) for rank in range(count)]
        stopped = None
        try:
            for rank in range(count):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), LAST_WORDS: str(words[rank])}
                # In a session of its own, so that Ctrl-C in a terminal reaches it once, from here.
                crew.append(subprocess.Popen(command, env={**os.environ, **told, **own}, start_new_session=True))
            while None in (codes := [process.poll() for process in crew]) and not any(codes) and not stops:
                time.sleep(POLL_S)
            stopped = next(iter(stops), None)
        finally:
            _end(crew, stopped or signal.SIGTERM)
        if stopped is None and any(codes):
            raise RankError(_told(codes, words))
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped:
        sys.exit(128 + stopped)


def record(error: BaseException) -> bool:
    """Leave word of an error for whoever started this rank.

    Args:
        error: it.

    Returns:
        Whether that one shows it, so that this process need not.
    """
    if place := os.environ.get(LAST_WORDS):
        try:
            Path(place).write_text(str(error), encoding="utf-8")
        except OSError:  # a full disk, of which the error itself may tell
            return False
        return True
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun, called by hand
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    return False


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[signal.Signals]]:
    """Signals that ask this process to end, as they come; those that it was told to ignore stay ignored."""
    stops: list[signal.Signals] = []
    before = {each: signal.getsignal(each) for each in STOPS}
    taken = {each: handler for each, handler in before.items() if handler != signal.SIG_IGN}
    for each in taken:
        signal.signal(each, lambda number, frame: stops.append(signal.Signals(number)))
    try:
        yield stops
    finally:
        for each, handler in taken.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _meeting_place(count: int) -> Iterator[dict[str, str]]:
    """A store of addresses on the loopback interface, and the variables that lead ranks to it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # A store that opens its own port listens on every interface, whatever its host name.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    store = TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), use_libuv=True
    )
    loopback = "lo" if "lo" in [name for _, name in socket.if_nameindex()] else "lo0"
    yield {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        # Rank 0 is to open no store of its own.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": f"={loopback}",
    }


def _end(crew: Sequence[subprocess.Popen[bytes]], sent: signal.Signals) -> None:
    for process in crew:
        process.send_signal(sent)
    end = time.monotonic() + GRACE_S
    for process in crew:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        process.kill()
        process.wait()


def _told(codes: Sequence[int | None], words: Sequence[Path]) -> str:
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
    if line := words[rank].read_text(encoding="utf-8") if words[rank].is_file() else "":
        return f"rank {rank}: {line}" if rank else line
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return (
        f"expected every rank to finish; got rank {rank} ended {how}, so the others were ended too; "
        "run the same command again: what is complete is kept"
    )
