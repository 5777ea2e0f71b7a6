"""Samples batch by batch: finished ones survive a kill, processes of torchrun divide them, and files take them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import Resumable, replaced
from discriminator_guidance.core.images import GRID_IMAGES, write_grid, write_png
from discriminator_guidance.core.runtime import barrier, broadcast, is_first, rank, world_size

Arrays = dict[str, np.ndarray]
Batch = TypeVar("Batch")


def in_batches(
    batches: Sequence[Batch], draw: Callable[[Batch], Arrays], work: Resumable | None
) -> Iterator[tuple[int, Arrays, bool]]:
    """The number and the arrays of each batch, and whether an earlier run had drawn it and `work` kept it.

    With `work` the processes of torchrun divide the batches; the first one then yields those of all, the others theirs.
    Without it each process draws every batch.
    """
    mine = missing = list(range(len(batches)))
    if work is not None:
        kept = set()
        for number in missing:
            if (shard := work.load_shard(number)) is not None:
                kept.add(number)
                yield number, shard, True
        missing = broadcast([number for number in missing if number not in kept])
        mine = missing[rank() :: world_size()]
    for number in mine:
        arrays = draw(batches[number])
        if work is not None:
            work.save_shard(number, **arrays)
        yield number, arrays, False
    if work is None or world_size() == 1:
        return
    barrier()
    for number in [number for number in missing if number not in mine] if is_first() else []:
        if (shard := work.load_shard(number)) is None:
            remedy = "share the project folder among all processes, and run the command again"
            raise InputError(f"batch {number} in {work.folder}", "none", remedy)
        yield number, shard, False


def check_out(out: Path, count: int) -> None:
    """Refuse, before samples are drawn, a path to which `write_batches` cannot write them."""
    grid, file = out.suffix.lower() == ".png", out.suffix.lower() in (".npy", ".npz", ".png")
    if (grid and count > GRID_IMAGES) or (out.exists() and out.is_dir() == file):
        expected = f"out: a folder, an .npz or .npy file, or a .png of at most {GRID_IMAGES} images"
        raise ConfigError(expected, f"{out} and {count} images", "choose another")


def write_batches(out: Path, numbers: Sequence[int], batches: Iterable[np.ndarray]) -> None:
    """Write images, of which one batch at a time is in memory.

    out: a folder of PNG files, named by their numbers, a .png with a grid of them, or an .npz file with the array
    `images`, for (n, H, W, C) uint8; or an .npy file of what the batches hold.
    """
    if out.suffix == ".npy":
        with replaced(out) as stream:
            _write_rows(stream, len(numbers), batches)
    elif out.suffix == ".npz":
        with (
            replaced(out) as stream,
            zipfile.ZipFile(stream, "w") as archive,
            archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as entry,
        ):
            _write_rows(entry, len(numbers), batches)
    elif out.suffix.lower() == ".png":
        write_grid(out, np.concatenate(list(batches)))
    else:
        for number, image in zip(numbers, chain.from_iterable(batches), strict=True):
            write_png(out / f"{number:06d}.png", image)


def _write_rows(stream: IO[bytes], count: int, batches: Iterable[np.ndarray]) -> None:
    for number, batch in enumerate(batches):
        if not number:
            kind = {"descr": np.lib.format.dtype_to_descr(batch.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(stream, kind | {"shape": (count, *batch.shape[1:])})
        stream.write(np.ascontiguousarray(batch).data)
