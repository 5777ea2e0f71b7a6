"""Images from files: folders, a zip of them, EDM's zip with `dataset.json`, or an .npz file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from discriminator_guidance import progress
from discriminator_guidance.data.files import load_arrays, reason
from discriminator_guidance.data.images import Images, shrink
from discriminator_guidance.errors import InputError, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
CHANNELS = {"L": 1, "RGB": 3}
LABELS = "dataset.json"
ARRAYS = ("images", "arr_0")  # names of the images in an .npz file, the preferred one first
MAX_PIXELS, MAX_FILE_BYTES, MAX_TOTAL_BYTES = 2**22, 2**26, 2**32

Read = Callable[[str], bytes]


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape (H, W, C) that are read batch by batch."""

    path: Path
    names: tuple[str, ...]  # of the files; of an .npz its `index`, or 0, 1, ...
    shape: tuple[int, ...]

    @property
    def stems(self) -> list[str]:
        """The names without their endings: sets that have them in common are paired."""
        return [str(PurePosixPath(name).with_suffix("")) for name in self.names]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """The images in order, (N, H, W, C) uint8 of at most `size`."""
        starts = range(0, len(self.names), size)
        with _one_error(self.path, "images", "correct the files"):
            if self.path.suffix.lower() == ".npz":
                with zipfile.ZipFile(self.path) as archive, _array(archive) as (_, stream):
                    for start in starts:
                        shape = (min(size, len(self.names) - start), *self.shape)
                        yield np.frombuffer(stream.read(int(np.prod(shape))), np.uint8).reshape(shape).copy()
                    stream.read(1)  # past the end: only then are checksums compared
                return
            with _files(self.path) as (_, read):
                for start in starts:
                    yield np.stack([self._decoded(name, read) for name in self.names[start : start + size]])

    def _decoded(self, name: str, read: Read) -> np.ndarray:
        image = _decode(name, read)
        if image.shape != self.shape:
            raise ValueError(f"different shapes (H, W, C): {self.names[0]} {self.shape}, {name} {image.shape}")
        return image


def open_images(path: Path) -> ImageSet:
    """The images of a folder or a zip in the order of folder and name, or of an .npz; only the first is read."""
    with _one_error(path, "images", "give a folder, a zip or an .npz file of images"):
        if path.suffix.lower() != ".npz":
            with _files(path) as (files, read):
                names = _image_names(files)
                return ImageSet(path, tuple(names), _decode(names[0], read).shape)
        with zipfile.ZipFile(path) as archive, _array(archive) as ((count, *shape), _):
            index = np.arange(count)
            if "index.npy" in archive.namelist():
                index = np.lib.format.read_array(archive.open("index.npy"), allow_pickle=False)
            if index.shape != (count,):
                raise ValueError(f"index {index.shape} of {count} images")
            return ImageSet(path, tuple(f"{number:06d}" for number in index.tolist()), tuple(shape))


@contextmanager
def _array(archive: zipfile.ZipFile) -> Iterator[tuple[tuple[int, ...], IO[bytes]]]:
    """The shape of the images in an .npz file, and the stream of their bytes."""
    names = [name for name in ARRAYS if f"{name}.npy" in archive.namelist()]
    if not names:
        raise ValueError(f"no array {' or '.join(ARRAYS)}")
    with archive.open(f"{names[0]}.npy") as stream:
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype != np.uint8 or fortran or len(shape) != 4 or shape[3] not in (1, 3) or not np.prod(shape):
            raise ValueError(f"{names[0]} {shape} {dtype} instead of (N, H, W, 1 or 3) uint8")
        yield shape, stream


@contextmanager
def _one_error(path: Path, what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zipfile, json and image decoders raise some dozen types on damaged files
        raise InputError(f"{what} in {path}", reason(error), remedy) from error


def read_images(path: Path, image_size: int) -> Images:
    """All images in the order of class and name (of an .npz: its own), larger ones averaged over area to `image_size`.

    Classes are the folders that hold the images, in alphabetical order; with `dataset.json` and in an .npz file they
    are the labels 0, 1, ... themselves.
    """
    remedy = "correct real.path (real.holdout_path) or the files"
    with _one_error(path, "labelled images", remedy):
        if path.suffix.lower() == ".npz":
            arrays = load_arrays(path, ("images", "labels"), remedy)
            return _from_arrays(arrays["images"], arrays["labels"], image_size)
        with _files(path) as (files, read):
            names, labels, classes = _labelled(files, read)
            return Images(_decoded(path, names, read, image_size), labels, classes)


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


def _image_names(files: list[str]) -> list[str]:
    names = [name for name in files if name.lower().endswith(SUFFIXES) and not _hidden(name)]
    names.sort(key=lambda name: name.rpartition("/")[::2])
    if not names:
        raise ValueError(f"no file that ends in {', '.join(SUFFIXES)}")
    return names


def _labelled(files: list[str], read: Read) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    names = _image_names(files)
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
