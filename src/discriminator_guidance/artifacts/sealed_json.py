"""JSON with a checksum of itself, of its place and of the files beside it: a changed digit is no result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from discriminator_guidance.artifacts.files import fingerprint, read_json, sha256, write_json
from discriminator_guidance.errors import InputError

SEAL, BESIDE = "sha256", "beside"
PLACE = 3  # last parts of the path that are sealed too: a project may move, a result may not take another's place


def write_sealed(path: Path, data: Mapping[str, Any], beside: Sequence[str] = ()) -> None:
    """Write a result so that any later change of it is noticed.

    Args:
        path: where.
        data: what, fit for JSON; without the keys `sha256` and `beside`.
        beside: names of files in the same folder that are part of the result.
    """
    told = {**data, BESIDE: {name: sha256(path.with_name(name)) for name in beside}}
    write_json(path, {**told, SEAL: _seal(path, told)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Read a result that is what it was when it was written.

    Args:
        path: where.

    Returns:
        What was written; None if it is missing, or has changed, or a file beside it has, or it has no checksum.
    """
    try:
        told = read_json(path, "")
        seal, beside = told.pop(SEAL), told[BESIDE]
        whole = seal == _seal(path, told) and all(sha256(path.with_name(n)) == digest for n, digest in beside.items())
    except (InputError, KeyError, OSError):
        return None
    del told[BESIDE]
    return told if whole else None


def is_damaged(path: Path) -> bool:
    """Whether a result has changed since it was written.

    Args:
        path: a file that is there.

    Returns:
        False also for JSON of before there were checksums, which has neither of the two keys; no one flipped bit hides
        both.
    """
    if read_sealed(path) is not None:
        return False
    try:
        return not {SEAL, BESIDE}.isdisjoint(read_json(path, ""))
    except InputError:
        return True


def _seal(path: Path, told: Mapping[str, Any]) -> str:
    return fingerprint({"place": path.parts[-PLACE:], "told": dict(told)})
