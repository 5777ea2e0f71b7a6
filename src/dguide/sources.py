"""Real images of known data sets: the digits of scikit-learn, Fashion-MNIST, and the official CIFAR-10."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import damage_refused, load_arrays, regular
from discriminator_guidance.core.images import Images, shrink

SIDE, LEVELS = 8, 16  # of the digits: pixels, and grey levels from 0
FASHION_SIDE = 28
FASHION_HEADERS = {"images": 16, "labels": 8}  # bytes of a file before its values
FASHION_SHA256 = {  # of the unpacked files: archives of the same content differ
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FASHION_MOST = 60_000 * FASHION_SIDE**2 + 16  # bytes of an unpacked file
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, the green and the blue pixels
CIFAR10_TRAIN, CIFAR10_TEST = [f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]
CIFAR10_NAMES = "batches.meta.txt"


def read_digits(path: Path, image_size: int) -> Images:
    """Grey images (N, image_size, image_size, 1) from data/raw/digits.npz, enlarged bilinearly from 8 pixels."""
    remedy = "restore data/raw/digits.npz from git"
    arrays = load_arrays(path, ("images", "labels"), remedy)
    small, labels = arrays["images"], arrays["labels"]
    fitting = small.dtype == labels.dtype == np.uint8 and small.shape == (labels.size, SIDE, SIDE) and labels.ndim == 1
    if not fitting or not small.size or small.max() > LEVELS or labels.max() > 9:
        raise InputError(f"{path} has {small.shape} instead of images (N, 8, 8) of 0 .. 16 and their labels", remedy)
    # In double precision exact at 16, 32 and 64 pixels, so that every machine makes the same bytes.
    large = interpolate(torch.from_numpy(small)[:, None].double(), size=image_size, mode="bilinear")
    images = np.rint(large.permute(0, 2, 3, 1).numpy() * 255 / LEVELS).astype(np.uint8)
    return Images(images, labels.astype(np.int64), tuple("0123456789"))


def read_fashion(folder: Path, image_size: int) -> tuple[Images, Images]:
    """The training and the test images of Fashion-MNIST (Xiao et al. 2017) in their order, of at most 28 pixels."""
    values = {}
    for name, sha256 in FASHION_SHA256.items():
        path = folder / f"{name}.gz"
        with damage_refused(f"{path} is not the official file of Fashion-MNIST", "download it again: dguide fetch"):
            with gzip.open(regular(path)) as file:
                content = file.read(FASHION_MOST + 1)
            if (digest := hashlib.sha256(content).hexdigest()) != sha256:
                raise ValueError(f"its content has sha256 {digest}")
        part, kind = name.split("-")[:2]
        values[part, kind] = np.frombuffer(content, np.uint8)[FASHION_HEADERS[kind] :]

    def images_of(part: str) -> Images:
        shown = values[part, "images"].reshape(-1, FASHION_SIDE, FASHION_SIDE, 1)
        return Images(shrink(shown, image_size), values[part, "labels"].astype(np.int64), FASHION_CLASSES)

    return images_of("train"), images_of("t10k")


def read_cifar10(path: Path, image_size: int) -> tuple[Images, Images]:
    """The training and the test images (Krizhevsky 2009) in their official order, of at most 32 pixels."""
    problem = f"{path} is not the official CIFAR-10 archive, its binary version (md5 {CIFAR10_MD5})"
    with damage_refused(problem, "download it again: dguide fetch cifar10"):
        content = regular(path).read_bytes()
        if (md5 := hashlib.md5(content, usedforsecurity=False).hexdigest()) != CIFAR10_MD5:
            raise ValueError(f"its {len(content):,} bytes have md5 {md5}")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            return _cifar10(archive, CIFAR10_TRAIN, image_size), _cifar10(archive, CIFAR10_TEST, image_size)


def _cifar10(archive: tarfile.TarFile, batches: list[str], image_size: int) -> Images:
    files = {name: archive.extractfile(f"cifar-10-batches-bin/{name}") for name in (CIFAR10_NAMES, *batches)}
    names, *parts = [file.read() if file else b"" for file in files.values()]
    rows = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, CIFAR10_RECORD)
    images = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Images(shrink(images, image_size), rows[:, 0].astype(np.int64), tuple(names.decode("ascii").split()))
