"""Checksums of files in a file beside them, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from discriminator_guidance.artifacts.files import sha256, write_bytes
from discriminator_guidance.errors import InputError

ENDING = ".sha256"
LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")  # a plain name: nothing outside the folder is looked at


def write_checksums(path: Path, files: Iterable[Path]) -> None:
    """Write a line for each file.

    Args:
        path: where; ends with `.sha256`.
        files: in the same folder.
    """
    lines = [f"{sha256(file)}  {file.name}\n" for file in sorted(files)]
    write_bytes(path, "".join(lines).encode())


def read_checksums(path: Path) -> dict[str, str]:
    """The checksums that such a file tells.

    Args:
        path: where.

    Returns:
        SHA-256 by name of the file.

    Raises:
        InputError: not readable, or with a line of another form.
    """
    try:
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"checksums in {path}", type(error).__name__, "restore it") from error
    found = [LINE.fullmatch(line) for line in lines]
    if rest or not lines or None in found:
        raise InputError(f"checksums in {path}", "a line of another form", "restore it")
    return {match[2]: match[1] for match in found if match}
