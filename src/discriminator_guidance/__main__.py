"""The command `dguide`, where packages that it needs may be missing."""

import sys


def main() -> None:
    """Run `dguide`, or say in one line what to install."""
    try:
        from discriminator_guidance.cli import main as command

        command()
    except ModuleNotFoundError as error:
        if (name := error.name) is None or name.startswith("discriminator_guidance"):
            raise
        print(f"error: expected the package {name}; got none; pip install '.[pipeline,study,eval]'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
