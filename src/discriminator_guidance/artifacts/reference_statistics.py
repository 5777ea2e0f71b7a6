"""Mean and covariance of real features that somebody else computed, as EDM's `cifar10-32x32.npz`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.files import ARCHIVE_ERRORS, read_array, read_array_header
from discriminator_guidance.errors import InputError

MAX_BYTES = 2**28  # of mu or sigma; those of Inception have 2^25


def read_statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Arrays `mu` and `sigma`; nothing in the file is unpickled.

    Args:
        path: of the .npz.

    Returns:
        mu and sigma as they are.

    Raises:
        InputError: missing, damaged, without one of the two, or with a larger one than any statistics.
    """
    what = f"arrays mu and sigma in {path} (evaluation.reference_statistics)"
    remedy = "get the file again, or set evaluation.reference_statistics to null"
    if not path.is_file():
        raise InputError(what, "no such file", "run dguide fetch, put it there by hand, or set it to null")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(what, "a single array", remedy)
        with archive:
            missing = [name for name in ("mu", "sigma") if name not in archive.files]
            if missing:
                raise InputError(what, f"no {missing[0]} among {', '.join(archive.files) or 'no arrays'}", remedy)
            with zipfile.ZipFile(path) as entries:
                for name in ("mu", "sigma"):
                    _, *claims = read_array_header(entries, entries.getinfo(f"{name}.npy"))
                    if max(claims) > MAX_BYTES:
                        raise InputError(f"{name} of at most {MAX_BYTES:,} bytes in {path}", f"{max(claims):,}", remedy)
            return read_array(archive, "mu"), read_array(archive, "sigma")
    except ARCHIVE_ERRORS as error:
        raise InputError(what, " ".join(str(error).split())[:120], remedy) from error
