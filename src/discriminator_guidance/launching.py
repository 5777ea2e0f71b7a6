"""A stage by several ranks on this machine: the command starts itself that many times, through torchrun's machinery.

Environment:
    DGUIDE_RANKS: how many processes share a stage (default 1). It decides how soon a result is there, not what it is,
        so it is no setting of a profile.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from typing import Any

from discriminator_guidance import ranks
from discriminator_guidance.errors import ConfigError, UserError

MOST_RANKS = 1024


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
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What these say of ends and signals in many lines is said below in one; each sets its own level when it is made.
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="dguide-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "discriminator_guidance.cli", *arguments)
        except ChildFailedError as error:
            raise RankError(_told(error)) from None
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + stopped.sigval)


def record(error: BaseException) -> bool:
    """Leave word of an error for whoever started this rank.

    Args:
        error: it.

    Returns:
        Whether that one shows it, so that this process need not.
    """
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return False
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)
    return "DGUIDE_RANKS" in os.environ


def _told(error: Any) -> str:
    # A rank that was ended for the sake of another comes last.
    rank, failure = min(error.failures.items(), key=lambda e: (e[1].exitcode == -signal.SIGTERM, e[1].timestamp))
    if isinstance(failure.message, dict):  # from `record`
        line: str = failure.message["message"].partition(": ")[2]
        return f"rank {rank}: {line}" if rank else line
    how = f"by {failure.signal_name()}" if failure.exitcode < 0 else f"with exit code {failure.exitcode}"
    return (
        f"expected every rank to finish; got rank {rank} ended {how}, so the others were ended too; "
        "run the same command again: what is complete is kept"
    )
