"""What is computed from a picture set alone, kept by content, so that a changed metric never repeats it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.files import ARCHIVE_ERRORS, read_array, write_npz
from discriminator_guidance.artifacts.images import content_digest


def cached_rows(
    folder: Path, process: str, source: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """A row for each member of a set, from the cache, or computed and put there.

    Args:
        folder: the cache; safe to delete.
        process: digest of everything beside the set that determines the rows: weights, code, precision, device.
        source: (N, ...) pictures, or features of them.
        compute: source -> (N, ...) rows.

    Returns:
        (N, ...) rows, in the precision in which they were computed.
    """
    content = content_digest(source)
    path = folder / f"{process[:16]}-{content[:16]}.npz"
    kept = _read(path, process, content)
    if kept is not None and len(kept) == len(source):
        return kept
    rows = compute(source)
    write_npz(path, rows=rows, process=np.array(process), content=np.array(content))
    return rows


def is_whole(path: Path) -> bool:
    """Whether a file of the cache can be read to its end.

    Args:
        path: the file.

    Returns:
        False for damage; whether it fits a set is judged when it is used.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return all(read_array(archive, name) is not None for name in ("rows", "process", "content"))
    except ARCHIVE_ERRORS:
        return False


def _read(path: Path, process: str, content: str) -> np.ndarray | None:
    # A damaged or foreign file is not an error: the rows are simply computed again.
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(read_array(archive, "process")) != process or str(read_array(archive, "content")) != content:
                return None
            return read_array(archive, "rows")
    except ARCHIVE_ERRORS:
        return None
