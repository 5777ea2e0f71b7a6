"""The command `dguide`, where the packages that it needs may be missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `dguide`, or say in one line what to install."""
    try:
        from discriminator_guidance.cli import main as command

        command()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("discriminator_guidance"):
            raise
        extras = "pip install '.[pipeline,study,eval]' in the project folder"
        print(f"error: expected the package {error.name}; got none; {extras}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
