"""The command `dguide`, where packages that it needs may be missing."""

import os
import signal
import sys

INTERRUPTED = 130  # exit code


def main() -> None:
    """Run `dguide`; an error that a user can correct becomes one line and exit code 2."""
    # Schedulers, torchrun and closed terminals end processes by signals: as after Ctrl-C, runs and trials are closed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, signal.default_int_handler)
    try:
        from dguide.cli import app
        from dguide.run import one_line_errors

        with one_line_errors():
            app()
    except ModuleNotFoundError as error:
        if (name := error.name) is None or name.startswith(("discriminator_guidance", "dguide")):
            raise
        extras = "diffusers" if name == "diffusers" else "pipeline,study,eval"
        print(f"error: expected the package {name}; got none; pip install '.[{extras}]'", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        if os.environ.get("RANK", "0") == "0":
            print("interrupted: the same command resumes", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
