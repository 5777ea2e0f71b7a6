"""The command `dguide`, where packages that it needs may be missing; errors as one line."""

import errno
import os
import re
import signal
import sys
from typing import Any

from discriminator_guidance.core.errors import UserError

NO_MEMORY = re.compile("out of memory|ALLOC_FAILED|can't allocate memory")


def main() -> None:
    """Run `dguide`; an error that a user can correct becomes one line and exit code 2."""
    interrupted = list[int]()

    def interrupt(number: int, frame: object) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    # Schedulers, torchrun and closed terminals end processes by signals: as after Ctrl-C, runs and trials are closed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, interrupt)
    sys.unraisablehook = _interrupt_again
    if "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's threads spin while they wait, which on a busy machine takes the processor from those that work.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch starts
    try:
        from dguide.cli import app

        app()
    except BaseException as ended:
        finished = isinstance(ended, SystemExit) and ended.code != 130  # Typer's, after Ctrl-C
        if interrupted and not finished:  # torch, in reading a file, replaces what a signal raises
            if os.environ.get("RANK", "0") == "0":
                print("interrupted: the same command resumes a stage, study or training", file=sys.stderr)
            sys.exit(130)
        if (message := _message(ended)) is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _message(error: BaseException) -> str | None:
    """What to tell of an error that a user can correct; None for others."""
    match error:
        case ModuleNotFoundError(name=str(name)) if not name.startswith(("discriminator_guidance", "dguide")):
            extras = "diffusers" if name == "diffusers" else "pipeline,study,eval"
            return f"the package {name} is not installed; pip install '.[{extras}]'"
        case UserError():
            return str(error)
        case OSError(filename=name, errno=number, strerror=str(reason)) if name is not None or number == errno.ENOSPC:
            return f"{name or 'a file'} cannot be read or written: {reason}; correct it and try again"
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            return "the device has no memory left; lower batch_size of the stage, or write runtime.device: cpu"
    return None


def _interrupt_again(unraisable: Any) -> None:
    """Repeat an interruption that Python could not pass on, as in the callback of a weak reference."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()
