"""The command `dguide`, where packages that it needs may be missing."""

import signal
import sys


def main() -> None:
    """Run `dguide`; an error that a user can correct becomes one line and exit code 2."""
    # Schedulers and torchrun end processes by SIGTERM: as after Ctrl-C, runs in MLflow and trials are closed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from dguide.cli import app
        from dguide.run import one_line_errors

        with one_line_errors():
            app()
    except ModuleNotFoundError as error:
        if (name := error.name) is None or name.startswith(("discriminator_guidance", "dguide")):
            raise
        print(f"error: expected the package {name}; got none; pip install '.[pipeline,study,eval]'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
