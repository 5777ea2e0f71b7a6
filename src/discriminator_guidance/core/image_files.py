"""Images from files: folders, a zip of them, EDM's zip with `dataset.json`, or an .npz file, read batch by batch."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from discriminator_guidance.core.errors import ConfigError, InputError, UserError
from discriminator_guidance.core.files import array_header, load_arrays, open_archive, reason
from discriminator_guidance.core.images import Images, shrink

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
CHANNELS = {"L": 1, "RGB": 3}
LABELS = "dataset.json"
ARRAYS = ("images.npy", "arr_0.npy")  # of the images in an .npz file, the preferred one first
MAX_PIXELS, MAX_FILE_BYTES = 2**22, 2**26
BATCH = 16  # images of which all are read
REMEDY = "give a folder, a zip or an .npz file of images, or correct the files"

Read = Callable[[str], bytes]


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape (H, W, C), in the order of folder and name, or of an .npz file."""

    path: Path
    names: tuple[str, ...] | range  # of files; of an .npz numbers from 0
    shape: tuple[int, ...]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Arrays (N, H, W, C) uint8 of at most `size` images."""
        with _as_input_error(self.path), _opened(self.path) as (_, image_of):
            for start in range(0, len(self.names), size):
                images = {name: image_of(name) for name in self.names[start : start + size]}
                if odd := [f"{name} {image.shape}" for name, image in images.items() if image.shape != self.shape]:
                    raise ValueError(f"different shapes (H, W, C): {self.names[0]} {self.shape}, {odd[0]}")
                yield np.stack(list(images.values()))


def open_images(path: Path) -> ImageSet:
    """List the images and read the first."""
    with _as_input_error(path), _opened(path) as (names, image_of):
        return ImageSet(path, names, image_of(names[0]).shape)


def read_images(path: Path, image_size: int, advance: Callable[[int], None] = lambda count: None) -> Images:
    """All images in the order of class and name (of an .npz: its own), larger ones averaged over area to `image_size`.

    Classes are the folders that hold the images, in alphabetical order; with `dataset.json` and in an .npz file they
    are the labels 0, 1, ... themselves.
    """
    opened, images = open_images(path), []
    with _as_input_error(path):
        labels, classes = _labelled(opened)
        for batch in opened.batches(BATCH):
            images.append(shrink(batch, image_size))
            advance(len(batch))
        return Images(np.concatenate(images), labels, classes)


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zipfile, json and image decoders raise some dozen types on damaged files
        raise InputError(f"images in {path}", reason(error), REMEDY) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tuple[str, ...] | range, Callable[[Any], np.ndarray]]]:
    """The names, and what gives an image; those of an .npz are to be asked for in order."""
    if path.suffix.lower() != ".npz":
        with _files(path) as (files, read):
            names = [name for name in files if name.lower().endswith(SUFFIXES) and not _hidden(name)]
            if not names:
                raise ValueError(f"no file that ends in {', '.join(SUFFIXES)}")
            ordered = sorted(names, key=lambda name: name.rpartition("/")[::2])
            yield tuple(ordered), lambda name: _decode(name, read)
        return
    with open_archive(path) as archive:
        arrays = [name for name in ARRAYS if name in archive.namelist()]
        if not arrays:
            raise ValueError(f"no array {' or '.join(ARRAYS)}")
        with archive.open(arrays[0]) as stream:
            shape, by_column, dtype = array_header(stream, archive.getinfo(arrays[0]).file_size)
            if dtype != np.uint8 or by_column or len(shape) != 4 or shape[3] not in (1, 3) or not math.prod(shape):
                raise ValueError(f"{arrays[0]} {shape} {dtype} instead of (N, H, W, 1 or 3) uint8")
            size = math.prod(shape[1:])
            if size > MAX_FILE_BYTES:
                raise ValueError(f"{arrays[0]} with images of {size:,} bytes, more than {MAX_FILE_BYTES:,}")
            yield range(shape[0]), lambda _: np.frombuffer(stream.read(size), np.uint8).reshape(shape[1:])
            stream.read(1)  # past the end: only then are checksums compared


@contextmanager
def _files(path: Path) -> Iterator[tuple[list[str], Read]]:
    """Names of a folder's or an archive's files, and what reads one; nothing is unpacked to disk."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield names, lambda name: (path / name).read_bytes()
        return
    with open_archive(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > MAX_FILE_BYTES:  # no more is unpacked of it, whatever the compressed data hold
                raise ValueError(f"{entry.filename} of {entry.file_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        yield archive.namelist(), archive.read


def _labelled(opened: ImageSet) -> tuple[np.ndarray, tuple[str, ...]]:
    names = opened.names
    if isinstance(names, range):
        labels = load_arrays(opened.path, ("labels",), REMEDY)["labels"]
        if labels.shape != (len(names),):
            raise ValueError(f"labels {labels.shape} of {len(names)} images")
        return labels.astype(np.int64), _numbered(labels)
    with _files(opened.path) as (files, read):
        if LABELS in files:
            label_of = dict(json.loads(read(LABELS))["labels"])
            if odd := sorted(label_of.keys() ^ set(names)):
                raise ValueError(f"{LABELS} and images that differ in {odd[0]}")
            labels = np.array([label_of[name] for name in names])
            return labels.astype(np.int64), _numbered(labels)
    folders = [name.rpartition("/")[0] for name in names]
    classes = sorted(set(folders))
    if "" in classes or len({folder.rpartition("/")[0] for folder in classes}) > 1:
        raise ValueError(f"folders that are not side by side, one for each class: {', '.join(classes[:3])}")
    labels = np.array([classes.index(folder) for folder in folders], dtype=np.int64)
    return labels, tuple(folder.rpartition("/")[2] for folder in classes)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _numbered(labels: np.ndarray) -> tuple[str, ...]:
    present = np.unique(labels)
    if labels.dtype.kind not in "iu" or present.tolist() != list(range(len(present))):
        raise ValueError(f"labels {present[:5].tolist()} {labels.dtype} instead of 0, 1, 2, ..., each of them used")
    return tuple(map(str, present))


def _decode(name: str, read: Read) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("Pillow, which reads image files", "none", "pip install pillow, or give arrays") from error
    try:
        with Image.open(io.BytesIO(read(name)), formats=FORMATS) as image:
            if image.mode not in CHANNELS or image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.mode} {image.width}x{image.height} instead of L or RGB up to 4 megapixels")
            return np.asarray(image).reshape(image.height, image.width, CHANNELS[image.mode])
    except Exception as error:  # decoders raise anything on damaged bytes
        raise ValueError(f"{name}: {reason(error)}") from error
