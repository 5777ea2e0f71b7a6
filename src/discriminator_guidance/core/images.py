"""Image sets: read from files and written to them, made smaller, shown as a grid, or made of samples."""

import io
import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import damage_refused, load_arrays, open_archive, reason, replaced
from discriminator_guidance.core.runtime import progress

DARK = -0.2  # in the units of the diffusion black is below; bicubic resizing leaves [0, 1] by less
GRID_COLUMNS, GRID_IMAGES, GRID_PIXELS = 12, 72, 48  # pixels of one image, at least


class Images(NamedTuple):
    """Images (N, H, W, C) uint8, labels (N,) int64, and the names of the classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def class_indices(labels: Any, classes: float = math.inf) -> Tensor:
    """Integers (N,), from 0 to below `classes`, of labels (N,), (N, 1), or (N, classes) one-hot."""
    with damage_refused("labels are no classes", "give integers, one-hot rows, or images alone"):
        rows: Tensor = (1 * torch.as_tensor(labels)).reshape(len(labels), -1 if len(labels) else 1)  # also of booleans
    indices = rows.argmax(dim=1) if rows.shape[1] > 1 else rows[:, 0].long()
    same = indices[:, None].to(rows) if rows.shape[1] == 1 else torch.zeros_like(rows).scatter_(1, indices[:, None], 1)
    if not torch.equal(same, rows):
        raise InputError(f"labels such as {rows[0].tolist()!s:.60} are no classes", "give integers, or one-hot rows")
    if len(indices) and not 0 <= indices.min() <= indices.max() < classes:
        allowed = "0 or more" if classes == math.inf else f"0 to {classes - 1}"
        raise InputError(f"classes are {indices.min()} to {indices.max()}", f"give {allowed}")
    return indices


def shrink(images: np.ndarray, image_size: int) -> np.ndarray:
    """Square images (N, H, W, C) uint8 brought to `image_size` by averaging over area (a box filter)."""
    height, width = images.shape[1:3]
    if height != width or height < image_size:
        raise ValueError(f"images are {width}x{height} and must be square, at least {image_size}x{image_size}")
    if height == image_size:
        return images
    # Lengths shared by new and old pixels in units of 1/new old pixels: whole numbers whose sums of products stay far
    # below 2**53, so that float64 gives the same bytes on every machine.
    begin = np.maximum.outer(np.arange(image_size) * height, np.arange(height) * image_size)
    end = np.minimum.outer(np.arange(1, image_size + 1) * height, np.arange(1, height + 1) * image_size)
    overlaps = np.maximum(end - begin, 0).astype(np.float64)
    small = np.empty((len(images), image_size, image_size, images.shape[3]), dtype=np.uint8)
    for index, image in enumerate(images):
        columns = np.tensordot(image.astype(np.float64), overlaps, axes=(0, 1))  # (W, C, new H)
        sums = np.tensordot(columns, overlaps, axes=(0, 1)).transpose(1, 2, 0)
        small[index] = (2 * sums + height**2) // (2 * height**2)  # rounded, halves upwards
    return small


def write_grid(path: Path, images: np.ndarray) -> None:
    """Write the first 72 images (N, H, W, C) uint8 as one PNG, enlarged without smoothing."""
    shown = images[:GRID_IMAGES]
    factor = max(1, GRID_PIXELS // shown.shape[1])
    large = shown.repeat(factor, axis=1).repeat(factor, axis=2)
    framed = np.pad(large, ((0, -len(large) % GRID_COLUMNS), (0, 2), (0, 2), (0, 0)), constant_values=255)
    rows = framed.reshape(-1, GRID_COLUMNS, *framed.shape[1:]).swapaxes(1, 2)
    write_png(path, rows.reshape(-1, GRID_COLUMNS * framed.shape[2], framed.shape[3]))


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 1 or 3) uint8."""
    from PIL import Image

    with replaced(path) as stream:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(stream, format="PNG")


def check_out(out: Path, count: int, channels: int = 3) -> str:
    """The suffix of a file, "" for a folder; refuses, before samples are drawn, what `write_batches` cannot write."""
    kind = suffix if (suffix := out.suffix.lower()) in (".npy", ".npz", ".png") else ""
    blocked = (out.exists() and out.is_dir() == bool(kind)) or any(map(Path.is_file, out.absolute().parents))
    if (kind == ".png" and count > GRID_IMAGES) or suffix in (".jpg", ".jpeg", ".webp", ".gif") or blocked:
        remedy = f"choose a folder, an .npz or .npy file, or a .png of at most {GRID_IMAGES} images"
        raise ConfigError(f"{count} images cannot be written to {out}", remedy)
    if kind != ".npy" and channels not in CHANNELS.values():
        raise ConfigError(f"samples of {channels} channels cannot be images of 8 bits in {out}", "choose an .npy file")
    if kind in ("", ".png") and find_spec("PIL") is None:
        raise ConfigError("Pillow, which writes PNG files, is missing", "pip install pillow, or choose an .npz file")
    return kind


def write_batches(out: Path, numbers: Sequence[int], batches: Iterable[np.ndarray]) -> None:
    """Write images (n, H, W, C) uint8 by their numbers, one batch in memory; to an .npy file what the batches hold."""
    kind = check_out(out, len(numbers))
    if kind in (".npy", ".npz"):
        with ExitStack() as stack:
            stream: IO[bytes] = stack.enter_context(replaced(out))
            if kind == ".npz":
                archive = stack.enter_context(zipfile.ZipFile(stream, "w"))
                stream = stack.enter_context(archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True))
            for number, batch in enumerate(batches):
                if not number:
                    header = {"descr": np.lib.format.dtype_to_descr(batch.dtype), "fortran_order": False}
                    np.lib.format.write_array_header_1_0(stream, header | {"shape": (len(numbers), *batch.shape[1:])})
                stream.write(np.ascontiguousarray(batch).data)
    elif kind:
        write_grid(out, np.concatenate(list(batches)))
    else:
        paths = [out / f"{number:06d}.png" for number in numbers]
        if others := {*out.glob("*.png")} - {*paths}:
            warnings.warn(f"{out} has {len(others)} other images", stacklevel=3)
        for path, image in zip(paths, chain.from_iterable(batches), strict=True):
            write_png(path, image)


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # files of operating systems
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
CHANNELS = {"L": 1, "RGB": 3}
LABELS = "dataset.json"
ARRAYS = ("images", "arr_0")  # of the images in an .npz file, the preferred one first
MAX_PIXELS, MAX_FILE_BYTES = 2**22, 2**26
BATCH = 16  # images of which all are read
REMEDY = "give a folder, a zip or an .npz file of images, all RGB or all grey, or convert the files"


class ImageSet(NamedTuple):
    """Images of one shape (H, W, C), in the order of folder and name, or of an .npz file."""

    path: Path
    names: tuple[str, ...] | range  # of files; of an .npz numbers from 0
    shape: tuple[int, ...]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Arrays (N, H, W, C) uint8 of at most `size` images."""
        with damage_refused(f"images in {self.path} cannot be read", REMEDY), _opened(self.path) as (_, image_of):
            for start in range(0, len(self.names), size):
                images = {name: image_of(name) for name in self.names[start : start + size]}
                if odd := [f"{name} {image.shape}" for name, image in images.items() if image.shape != self.shape]:
                    raise ValueError(f"shapes (H, W, C) differ: {self.names[0]} {self.shape}, {odd[0]}")
                yield np.stack(list(images.values()))


def open_images(path: Path) -> ImageSet:
    """List the images and read the first."""
    with damage_refused(f"images in {path} cannot be read", REMEDY), _opened(path) as (names, image_of):
        return ImageSet(path, names, image_of(names[0]).shape)


def read_images(path: Path, image_size: int) -> Images:
    """All images in the order of class and name (of an .npz: its own), larger ones averaged over area to `image_size`.

    Classes are the folders that hold the images, in alphabetical order; with `dataset.json` and in an .npz file they
    are the labels 0, 1, ... themselves. Images in the folder itself, or without labels there, are of one class.
    """
    opened, images, problem = open_images(path), [], f"images in {path} cannot be read"
    with damage_refused(problem, REMEDY), progress(f"reading {path.name}", len(opened.names), "images") as advance:
        labels, classes = _labelled(opened)
        for batch in opened.batches(BATCH):
            images.append(shrink(batch, image_size))
            advance(len(batch))
        return Images(np.concatenate(images), labels, classes)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tuple[str, ...] | range, Callable[[Any], np.ndarray]]]:
    """The names, and what gives an image."""
    if path.suffix.lower() != ".npz":
        with _files(path) as (files, read):
            names = [name for name in files if name.lower().endswith(SUFFIXES) and not HIDDEN.search(name)]
            if not names:
                raise ValueError(f"no file ends in {', '.join(SUFFIXES)}")
            yield tuple(sorted(names, key=lambda name: name.rpartition("/")[::2])), lambda name: _decode(name, read)
        return
    with open_archive(path) as archive:
        arrays = [name for name in ARRAYS if f"{name}.npy" in archive.namelist()]
    if not arrays:
        raise ValueError(f"it has no array {' or '.join(ARRAYS)}")
    images = load_arrays(path, arrays[:1], REMEDY)[arrays[0]]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise ValueError(f"{arrays[0]} is {images.shape} {images.dtype} instead of (N, H, W, 1 or 3) uint8")
    yield range(len(images)), images.__getitem__


@contextmanager
def _files(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Names of a folder's or an archive's files, and what reads one; nothing is unpacked to disk."""
    if path.is_dir():
        names = list[str]()
        for at, folders, files in os.walk(path, followlinks=True):
            if any(Path(at).resolve().is_relative_to(Path(at, name).resolve()) for name in folders):
                raise ValueError(f"a link in {at} leads back to it")
            names += [Path(at, file).relative_to(path).as_posix() for file in files if Path(at, file).is_file()]
        yield names, lambda name: (path / name).read_bytes()
        return
    with open_archive(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > MAX_FILE_BYTES:  # no more is unpacked of it, whatever the compressed data hold
                raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        yield archive.namelist(), archive.read


def _labelled(opened: ImageSet) -> tuple[np.ndarray, tuple[str, ...]]:
    names, unlabelled = opened.names, (np.zeros(len(opened.names), np.int64), ("images",))
    if isinstance(names, range):
        with open_archive(opened.path) as archive:
            if len(archive.namelist()) == 1:  # labels of another name would be lost
                return unlabelled
        labels = load_arrays(opened.path, ("labels",), REMEDY)["labels"]
        if labels.shape != (len(names),):
            raise ValueError(f"labels are {labels.shape} for {len(names)} images")
        return _numbered(labels)
    with _files(opened.path) as (files, read):
        if LABELS in files:
            if (pairs := json.loads(read(LABELS))["labels"]) is None:  # EDM's dataset tool, where it has none
                return unlabelled
            label_of = dict(pairs)
            if odd := sorted(label_of.keys() ^ set(names)):
                raise ValueError(f"{LABELS} and images differ in {odd[0]}")
            return _numbered(np.array([label_of[name] for name in names]))
    folders = [name.rpartition("/")[0] for name in names]
    classes = sorted(set(folders))
    if len(classes) > 1 and ("" in classes or len({folder.rpartition("/")[0] for folder in classes}) > 1):
        where = ", ".join(name or "images in the folder itself" for name in classes[:3])
        raise ValueError(f"images are neither in one folder nor in folders side by side, one for each class: {where}")
    labels = np.array([classes.index(folder) for folder in folders], dtype=np.int64)
    return labels, tuple(folder.rpartition("/")[2] or "images" for folder in classes)


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    present = np.unique(labels)
    if labels.dtype.kind not in "iu" or present.tolist() != list(range(len(present))):
        raise ValueError(f"labels are {present[:5].tolist()} {labels.dtype} instead of 0, 1, 2, ..., each of them used")
    return labels.astype(np.int64), tuple(map(str, present))


def _decode(name: str, read: Callable[[str], bytes]) -> np.ndarray:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ConfigError("Pillow, which reads images, is missing", "pip install pillow, or give arrays") from error
    try:
        with Image.open(io.BytesIO(read(name)), formats=FORMATS) as image:
            if image.mode not in CHANNELS or image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.mode} {image.width}x{image.height} instead of L or RGB up to 4 megapixels")
            upright = ImageOps.exif_transpose(image)  # as viewers show it
            return np.asarray(upright).reshape(upright.height, upright.width, CHANNELS[image.mode])
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no PNG, JPEG, BMP or WebP") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise ValueError(f"{name}: {reason(error)}") from error
