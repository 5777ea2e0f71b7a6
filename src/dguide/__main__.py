"""The command `dguide`, where packages that it needs may be missing; errors as one line."""

import os
import signal
import sys
from typing import Any

from discriminator_guidance.core.errors import UserError

INTERRUPTED = 130  # exit code
NO_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


def main() -> None:
    """Run `dguide`; an error that a user can correct becomes one line and exit code 2."""
    # Schedulers, torchrun and closed terminals end processes by signals: as after Ctrl-C, runs and trials are closed.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = _interrupt_again
    if "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's threads spin while they wait, which on a busy machine takes the processor from those that work.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch starts
    try:
        from dguide.cli import app

        app()
        return
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        if os.environ.get("RANK", "0") == "0":
            print("interrupted: the same command resumes a stage, study or training", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        if (name := error.name) is None or name.startswith(("discriminator_guidance", "dguide")):
            raise
        extras = "diffusers" if name == "diffusers" else "pipeline,study,eval"
        message = f"the package {name} is not installed; pip install '.[{extras}]'"
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.strerror is None or error.filename is None:
            raise
        message = f"{error.filename} cannot be read or written: {error.strerror}; correct it and try again"
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in NO_MEMORY):
            raise
        message = "the device has no memory left; lower batch_size of the stage, or write runtime.device: cpu"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _interrupt_again(unraisable: Any) -> None:
    """Repeat an interruption that Python could not pass on, as in the callback of a weak reference."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()
