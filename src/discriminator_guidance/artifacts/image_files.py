"""Labelled pictures from files: class folders, a zip of them, EDM's zip with `dataset.json`, or an .npz file."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.archives import Files, open_files
from discriminator_guidance.artifacts.downscale import downscale
from discriminator_guidance.artifacts.image_arrays import read_arrays
from discriminator_guidance.artifacts.images import Pictures
from discriminator_guidance.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
CHANNELS = {"L": 1, "RGB": 3}
LABELS = "dataset.json"
MAX_PIXELS = 2**22
MAX_TOTAL_BYTES = 2**32
CHUNK_PIXELS = 2**20
THREADS = 8

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]  # opens a bar over so many pictures


def read_images(path: Path, image_size: int, progress: Progress) -> Pictures:
    """Read a labelled picture set.

    Classes are the folders that hold the pictures, in alphabetical order; with `dataset.json`, or in an .npz file,
    they are the labels 0, 1, ... themselves. Pictures come in the order of their classes and names, as EDM's by name,
    as those of an .npz file in their own order.

    Args:
        path: folder, zip archive or .npz file.
        image_size: height and width wanted, in pixels; larger pictures are averaged over area.
        progress: opens a progress bar.

    Returns:
        All pictures, of one size and kind, none of the classes empty.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    if path.suffix.lower() == ".npz":
        images, labels = read_arrays(path)
        classes = _numbered(labels, path)
        return Pictures(downscale(images, image_size, path), labels, classes)
    with open_files(path) as files:
        names, labels, classes = _labelled(files)
        if len(names) * image_size**2 * 3 > MAX_TOTAL_BYTES:
            raise InputError(
                f"pictures of at most {MAX_TOTAL_BYTES:,} bytes in all in {path}",
                f"{len(names):,} of {image_size}x{image_size}",
                "choose fewer or a smaller real.image_size",
            )
        with progress(len(names)) as advance:
            return Pictures(_decode_all(files, names, image_size, advance), labels, classes)


def _labelled(files: Files) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    names = [name for name in files.names if name.lower().endswith(SUFFIXES)]
    if not names:
        raise InputError(f"pictures ({', '.join(SUFFIXES)}) in {files.path}", "none", "set real.path to where they are")
    return _by_list(files, names) if LABELS in files.names else _by_folder(files, names)


def _by_folder(files: Files, names: list[str]) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    names = sorted(names, key=lambda name: name.rpartition("/")[::2])
    folder_of = [name.rpartition("/")[0] for name in names]
    folders = sorted(set(folder_of))
    parents = {folder.rpartition("/")[0] for folder in folders}
    if "" in folders or len(parents) > 1:
        odd = next(name for name in names if len(parents) > 1 or "/" not in name)
        raise InputError(
            f"pictures in class folders that stand side by side in {files.path}",
            f"{odd} among {len(folders)} folders",
            "put each class into one folder",
        )
    siblings = {folder for folder in files.folders if folder.rpartition("/")[0] in parents}
    empty = sorted(siblings - set(folders))
    if empty:
        raise InputError(f"pictures in every class of {files.path}", f"none in {empty[0]}", "fill or remove it")
    number = {folder: index for index, folder in enumerate(folders)}
    labels = np.array([number[folder] for folder in folder_of], dtype=np.int64)
    return names, labels, tuple(folder.rpartition("/")[2] for folder in folders)


def _by_list(files: Files, names: list[str]) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    shown = f"{files.path}, {LABELS}"
    try:
        listed = json.loads(files.read(LABELS))["labels"]
        label_of = dict(listed)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f'{{"labels": [[name, class], ...]}} in {shown}', reason, "make it again, with labels"
        ) from error
    if len(label_of) != len(listed) or set(label_of) != set(names):
        odd = sorted(set(map(str, label_of)) ^ set(names)) or ["a name listed twice"]
        raise InputError(f"exactly the pictures of the archive in {shown}", f"a difference: {odd[0]}", "make it again")
    wrong = [label for label in label_of.values() if type(label) is not int or not 0 <= label < 2**31]
    if wrong:
        raise InputError(f"whole numbers from 0 as classes in {shown}", repr(wrong[0])[:40], "make it again")
    labels = np.array([label_of[name] for name in names], dtype=np.int64)
    return names, labels, _numbered(labels, files.path)


def _numbered(labels: np.ndarray, path: Path) -> tuple[str, ...]:
    present = np.unique(labels)
    if len(present) != present[-1] + 1:
        empty = next(number for number, label in enumerate([*present, -1]) if number != label)
        raise InputError(f"pictures in every class 0 .. {present[-1]} of {path}", f"none in {empty}", "renumber them")
    return tuple(str(label) for label in present)


def _decode_all(files: Files, names: list[str], image_size: int, advance: Callable[[int], None]) -> np.ndarray:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = _decode(files, names[0])

        step = max(1, CHUNK_PIXELS // (first.shape[0] * first.shape[1]))

        def chunk(start: int) -> np.ndarray:
            alike = [_alike(files, name, names[0], first) for name in names[start : start + step]]
            return downscale(np.stack(alike), image_size, files.path)

        images = np.empty((len(names), image_size, image_size, first.shape[2]), dtype=np.uint8)
        starts = range(0, len(names), step)
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            for start, part in zip(starts, pool.map(chunk, starts), strict=True):
                images[start : start + step] = part
                advance(len(part))
    return images


def _alike(files: Files, name: str, first_name: str, first: np.ndarray) -> np.ndarray:
    pixels = _decode(files, name)
    if pixels.shape != first.shape:
        raise InputError(
            f"pictures of one size and kind in {files.path}",
            f"{first_name} {_described(first)}, {name} {_described(pixels)}",
            "convert or remove those that differ",
        )
    return pixels


def _decode(files: Files, name: str) -> np.ndarray:
    from PIL import Image

    content = files.read(name)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            mode, (width, height) = image.mode, image.size
            pixels = np.asarray(image) if mode in CHANNELS and width * height <= MAX_PIXELS else None
    except Exception as error:  # decoders raise anything on damaged bytes; the file to mend is the same one
        reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise InputError(f"a whole picture {name} in {files.path}", reason, "replace or remove it") from error
    if pixels is None:
        raise InputError(
            f"RGB or greyscale pictures of at most {MAX_PIXELS:,} pixels in {files.path}",
            f"{name}, {mode} {width}x{height}",
            "convert or remove it",
        )
    return pixels.reshape(height, width, CHANNELS[mode])


def _described(pixels: np.ndarray) -> str:
    height, width, channels = pixels.shape
    return f"{'greyscale' if channels == 1 else 'RGB'} {width}x{height}"
