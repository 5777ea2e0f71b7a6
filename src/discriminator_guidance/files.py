"""Files that are complete or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from discriminator_guidance.errors import InputError, UserError

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 9  # significant ones of every number in JSON and CSV: the same on every machine, unlike the last ones
MAX_ARRAY_BYTES = 2**32


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that no reader sees a part of it and a failure leaves the previous one; make its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"to write {path} ({len(content):,} bytes)",
            str(error.strerror or error),
            "free disk space or correct its permissions, and run the command again; complete results are kept",
        ) from error


def write_json(path: Path, data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON, keys in the order given, floats to 9 significant digits; NaN and infinity are a ValueError."""
    write_bytes(path, (json.dumps(_rounded(data), indent=2, allow_nan=False) + "\n").encode())


def _rounded(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(value) for value in data]
    return float(f"{data:.{DIGITS}g}") if isinstance(data, float) else data


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read the JSON object that a stage wrote."""
    require(path, stage)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"a JSON object in {path}", str(error), f"run stage {stage} again") from error


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write plain arrays; the same arrays give the same bytes, with any version of Python (not so `np.savez`)."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as entries:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
            entries.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getbuffer())
    write_bytes(path, archive.getvalue())


def read_npz(path: Path, names: Sequence[str], stage: str) -> dict[str, np.ndarray]:
    """Read the arrays `names` of the .npz that a stage wrote."""
    require(path, stage)
    return load_arrays(path, names, f"run stage {stage} again")


def load_arrays(path: Path, names: Sequence[str] | None, remedy: str) -> dict[str, np.ndarray]:
    """Read named plain arrays (None: all) of an .npz from anywhere, checksums compared, nothing unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := max(entry.file_size for entry in archive.infolist())) > MAX_ARRAY_BYTES:
                raise ValueError(f"an array of {size:,} bytes")
            if damaged := archive.testzip():  # numpy reads no further than it needs, and compares nothing then
                raise ValueError(f"damage in {damaged}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays}
    except Exception as error:  # zipfile, zlib and numpy raise some dozen types on damaged bytes
        raise InputError(f"a complete .npz file {path}", reason(error), remedy) from error


def reason(error: Exception) -> str:
    """What an exception says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def write_csv(path: Path, rows: Sequence[Mapping[str, object]] | pd.DataFrame, columns: Sequence[str] = ()) -> None:
    """Write a table with a header (of no rows `columns`), floats to 9 significant digits."""
    import pandas as pd

    table = pd.DataFrame(rows) if len(rows) else pd.DataFrame(columns=list(columns))
    write_bytes(path, table.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}g").encode())


def require(path: Path, stage: str) -> None:
    """Refuse to start without a file that a stage makes."""
    if not path.is_file():
        raise InputError(f"{path}", "no such file", f"run `dvc repro` (stage {stage} makes it)")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(data: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON-like settings, whatever the order of their keys; infinity is allowed."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
