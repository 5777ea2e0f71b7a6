"""JSON, CSV and image arrays of other stages, read with errors that name the file and the stage to run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.artifacts.files import ARCHIVE_ERRORS, read_array
from discriminator_guidance.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


Kind = Literal["number", "number or null", "numbers", "pair", "pair or null", "text", "text or null", "list", "object"]


def read_json(path: Path, stage: str, keys: Mapping[str, Kind] | Sequence[str] = ()) -> Mapping[str, Any]:
    """A JSON object.

    Args:
        path: the file.
        stage: who makes it.
        keys: what it must have, and where they are told, of what kinds; numbers are finite.

    Returns:
        Its contents.

    Raises:
        InputError: missing, damaged, without a key, or with a value of another kind.
    """
    _require(path, stage)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"JSON in {path}", " ".join(str(error).split()), remedy(stage)) from error
    if not isinstance(content, dict):
        raise InputError(f"a JSON object in {path}", type(content).__name__, remedy(stage))
    missing = [key for key in keys if key not in content]
    if missing:
        raise InputError(f"key {missing[0]!r} in {path}", "no such key", remedy(stage))
    for key, kind in keys.items() if isinstance(keys, Mapping) else ():
        if not _is(content[key], kind):
            raise InputError(f"a {kind} as {key!r} in {path}", repr(content[key])[:80], remedy(stage))
    return content


def _is(value: object, kind: Kind) -> bool:
    if value is None:
        return kind.endswith("or null")
    if kind.startswith("text"):
        return isinstance(value, str)
    if kind.startswith("pair"):
        return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
    if kind in ("list", "object"):
        return isinstance(value, list if kind == "list" else dict)
    if kind == "numbers":
        return isinstance(value, list) and all(map(_is_number, value))
    return _is_number(value)


def _is_number(value: object) -> bool:
    # Whole numbers of JSON have no bound; those beyond 2^63 are no count, seed or size.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def read_csv(path: Path, stage: str, columns: list[str]) -> pd.DataFrame:
    """A CSV table.

    Args:
        path: the file.
        stage: who makes it.
        columns: what it must have.

    Returns:
        All its columns; at least one row.

    Raises:
        InputError: missing, damaged, empty, or without a column.
    """
    import pandas as pd

    _require(path, stage)
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError, OverflowError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"CSV in {path}", " ".join(str(error).split()), remedy(stage)) from error
    missing = [column for column in columns if column not in frame.columns]
    if missing or frame.empty:
        got = f"no column {missing[0]!r}" if missing else "no row"
        raise InputError(f"columns {', '.join(columns)} and rows in {path}", got, remedy(stage))
    return frame


def read_arrays(path: Path, stage: str, names: list[str]) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz file; nothing in it is unpickled.

    Args:
        path: the file.
        stage: who makes it.
        names: which arrays.

    Returns:
        The arrays by name.

    Raises:
        InputError: missing, damaged, or without an array.
    """
    _require(path, stage)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: read_array(archive, name) for name in names}
    except ARCHIVE_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"arrays {', '.join(names)} in {path}", reason, remedy(stage)) from error


def _require(path: Path, stage: str) -> None:
    if not path.is_file():
        raise InputError(f"file {path}", "no such file", remedy(stage))


def remedy(stage: str) -> str:
    """What to do about a file that a stage should have made."""
    return f"run stage `{stage}` again (`dvc repro`)"
