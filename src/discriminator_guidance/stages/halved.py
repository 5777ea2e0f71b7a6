"""What a file of samples says of batches that were halved for want of memory."""

from __future__ import annotations

from pathlib import Path

from discriminator_guidance.artifacts.files import read_npz

HALVED = "halved_batches"  # array of samples.npz, where there is something to say


def halved_record(path: Path, stage: str) -> dict[str, list[int]]:
    """What the record of a result says of the samples behind it.

    Args:
        path: samples.npz.
        stage: the stage that made it.

    Returns:
        The sizes that its batches came down to under `<stage>_halved_batches`; nothing where none was halved.
    """
    found = read_npz(path, [], stage, [HALVED])
    return {f"{stage}_{HALVED}": found[HALVED].tolist()} if found else {}
