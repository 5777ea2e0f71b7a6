"""Labelled images from files: class folders, a zip of them, EDM's zip with `dataset.json`, or an .npz file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from discriminator_guidance import progress
from discriminator_guidance.data.files import load_arrays, reason
from discriminator_guidance.data.images import Images, shrink
from discriminator_guidance.errors import InputError, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
CHANNELS = {"L": 1, "RGB": 3}
LABELS = "dataset.json"
MAX_PIXELS, MAX_FILE_BYTES, MAX_TOTAL_BYTES = 2**22, 2**26, 2**32

Read = Callable[[str], bytes]


def read_images(path: Path, image_size: int) -> Images:
    """All images in the order of class and name (of an .npz: its own), larger ones averaged over area to `image_size`.

    Classes are the folders that hold the images, in alphabetical order; with `dataset.json` and in an .npz file they
    are the labels 0, 1, ... themselves.
    """
    remedy = "correct real.path (real.holdout_path) or the files"
    try:
        if path.suffix.lower() == ".npz":
            arrays = load_arrays(path, ("images", "labels"), remedy)
            return _from_arrays(arrays["images"], arrays["labels"], image_size)
        with _files(path) as (files, read):
            names, labels, classes = _labelled(files, read)
            return Images(_decoded(path, names, read, image_size), labels, classes)
    except UserError:
        raise
    except Exception as error:  # zipfile, json and image decoders raise some dozen types on damaged files
        raise InputError(f"labelled images in {path}", reason(error), remedy) from error


def _from_arrays(images: np.ndarray, labels: np.ndarray, image_size: int) -> Images:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise ValueError(f"images {images.shape} {images.dtype} instead of (N, H, W, 1 or 3) uint8")
    if labels.shape != (len(images),):
        raise ValueError(f"labels {labels.shape} of {len(images)} images")
    return Images(shrink(images, image_size), labels.astype(np.int64), _numbered(labels))


@contextmanager
def _files(path: Path) -> Iterator[tuple[list[str], Read]]:
    """Names of a folder's or an archive's files, and what reads one; nothing is unpacked to disk."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield names, lambda name: (path / name).read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > MAX_FILE_BYTES:  # no more is unpacked of it, whatever the compressed data hold
                raise ValueError(f"{entry.filename} of {entry.file_size:,} bytes, more than {MAX_FILE_BYTES:,}")
            if entry.filename.startswith("/") or ".." in entry.filename.split("/"):
                raise ValueError(f"{entry.filename}, a name that points elsewhere")
        yield archive.namelist(), archive.read


def _labelled(files: list[str], read: Read) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    names = [name for name in files if name.lower().endswith(SUFFIXES) and not _hidden(name)]
    names.sort(key=lambda name: name.rpartition("/")[::2])
    if not names:
        raise ValueError(f"no file that ends in {', '.join(SUFFIXES)}")
    if LABELS in files:
        label_of = dict(json.loads(read(LABELS))["labels"])
        if odd := sorted(label_of.keys() ^ set(names)):
            raise ValueError(f"{LABELS} and images that differ in {odd[0]}")
        labels = np.array([label_of[name] for name in names])
        return names, labels.astype(np.int64), _numbered(labels)
    folders = [name.rpartition("/")[0] for name in names]
    classes = sorted(set(folders))
    if "" in classes or len({folder.rpartition("/")[0] for folder in classes}) > 1:
        raise ValueError(f"folders that are not side by side, one for each class: {', '.join(classes[:3])}")
    labels = np.array([classes.index(folder) for folder in folders], dtype=np.int64)
    return names, labels, tuple(folder.rpartition("/")[2] for folder in classes)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _numbered(labels: np.ndarray) -> tuple[str, ...]:
    present = np.unique(labels)
    if labels.dtype.kind not in "iu" or present.tolist() != list(range(len(present))):
        raise ValueError(f"labels {present[:5].tolist()} {labels.dtype} instead of 0, 1, 2, ..., each of them used")
    return tuple(map(str, present))


def _decoded(path: Path, names: list[str], read: Read, image_size: int) -> np.ndarray:
    shape = _decode(names[0], read).shape
    if len(names) * image_size**2 * shape[2] > MAX_TOTAL_BYTES:
        raise ValueError(f"{len(names):,} images of {image_size}x{image_size}, more than {MAX_TOTAL_BYTES:,} bytes")
    images = np.empty((len(names), image_size, image_size, shape[2]), dtype=np.uint8)
    with progress.bar(f"real {path.name}", len(names), "images") as advance:
        for index, name in enumerate(names):
            image = _decode(name, read)
            if image.shape != shape:
                raise ValueError(f"different shapes (H, W, C): {names[0]} {shape}, {name} {image.shape}")
            images[index] = shrink(image[None], image_size)[0]
            advance(1)
    return images


def _decode(name: str, read: Read) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read(name)), formats=FORMATS) as image:
            if image.mode not in CHANNELS or image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.mode} {image.width}x{image.height} instead of L or RGB up to 4 megapixels")
            return np.asarray(image).reshape(image.height, image.width, CHANNELS[image.mode])
    except Exception as error:  # decoders raise anything on damaged bytes
        raise ValueError(f"{name}: {reason(error)}") from error
