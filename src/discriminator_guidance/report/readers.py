"""JSON, CSV and image arrays of other stages, read with errors that name the file and the stage to run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def read_json(path: Path, stage: str, keys: list[str] | None = None) -> Mapping[str, Any]:
    """A JSON object.

    Args:
        path: the file.
        stage: who makes it.
        keys: what it must have.

    Returns:
        Its contents.

    Raises:
        InputError: missing, damaged, or without a key.
    """
    _require(path, stage)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"JSON in {path}", " ".join(str(error).split()), remedy(stage)) from error
    if not isinstance(content, dict):
        raise InputError(f"a JSON object in {path}", type(content).__name__, remedy(stage))
    missing = [key for key in keys or [] if key not in content]
    if missing:
        raise InputError(f"key {missing[0]!r} in {path}", "no such key", remedy(stage))
    return content


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
    except ValueError as error:  # pandas' parser errors are ValueErrors
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
            return {name: archive[name] for name in names}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"arrays {', '.join(names)} in {path}", reason, remedy(stage)) from error


def _require(path: Path, stage: str) -> None:
    if not path.is_file():
        raise InputError(f"file {path}", "no such file", remedy(stage))


def remedy(stage: str) -> str:
    """What to do about a file that a stage should have made."""
    return f"run stage `{stage}` again (`dvc repro`)"
