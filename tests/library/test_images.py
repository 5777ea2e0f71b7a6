"""Images from folders, archives and arrays: the same set whatever holds it, one error for what is wrong; the digits."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from dguide.sources import read_digits
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.images import read_images, shrink
from discriminator_guidance.core.noise import to_uint8

CLASSES = ("bird", "cat", "deer")


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, format=form)
    return buffer.getvalue()


def pixels_of(name: str, side: int = 8) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)


NAMES = [f"{kind}/{number}.png" for kind in CLASSES for number in ("0001", "0002", "10")]
FILES = {name: encoded(pixels_of(name)) for name in NAMES}
IMAGES = np.stack([pixels_of(name) for name in NAMES])


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def edm_zip(path: Path, labels: object) -> Path:
    files = {f"00000/img{index:08d}.png": FILES[name] for index, name in enumerate(NAMES)}
    return write_zip(path, files | {"dataset.json": json.dumps({"labels": labels}).encode()})


def message_of(path: Path, image_size: int = 8) -> str:
    with pytest.raises(InputError) as caught:
        read_images(path, image_size)
    message = str(caught.value)
    assert path.name in message
    return message


def test_a_link_that_leads_back_is_refused(tmp_path):
    (write_folder(tmp_path / "set", FILES) / "cat" / "all").symlink_to(tmp_path / "set")
    assert "leads back to it" in message_of(tmp_path / "set")


def test_folder_zip_and_nested_zip_hold_the_same_set(tmp_path):
    extra = {"__MACOSX/cat/._10.png": b"junk", ".DS_Store": b"junk", "cat/.thumb.png": b"junk", "readme.md": b"hello"}
    backwards = dict(reversed(FILES.items())) | extra
    folder = write_folder(tmp_path / "folder", backwards)
    (folder / "cat").symlink_to((folder / "cat").rename(tmp_path / "elsewhere"))
    for path in (
        folder,
        write_zip(tmp_path / "flat.zip", backwards),
        write_zip(tmp_path / "nested.zip", {f"train/{name}": content for name, content in backwards.items()}),
    ):
        images = read_images(path, 8)
        assert (images.images == IMAGES).all()
        assert (images.labels.tolist(), images.classes) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], CLASSES)


def test_edm_zip_takes_classes_from_its_list(tmp_path):
    labels = [[f"00000/img{index:08d}.png", index % 2] for index in range(len(NAMES))]
    images = read_images(edm_zip(tmp_path / "edm.zip", labels[::-1]), 8)
    assert (images.images == IMAGES).all()
    assert (images.labels.tolist(), images.classes) == ([0, 1, 0, 1, 0, 1, 0, 1, 0], ("0", "1"))


def test_edm_list_that_does_not_fit(tmp_path):
    names = [f"00000/img{index:08d}.png" for index in range(9)]
    for labels, complaint in [
        ([[name, 0] for name in [*names, "other.png"]], "other.png"),
        ([[name, 0.5] for name in names], "float64 instead of 0, 1, 2"),
        ([[name, index % 2 * 2] for index, name in enumerate(names)], "[0, 2] int64 instead"),
    ]:
        assert complaint in message_of(edm_zip(tmp_path / "edm.zip", labels))
    for text in (b"{", b"[" * 100_000, b'{"labels": ' + b"[" * 100_000):
        message_of(write_zip(tmp_path / "edm.zip", FILES | {"dataset.json": text}))


def test_arrays(tmp_path):
    labels = np.array([0, 1, 2] * 3, dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=labels, index=np.arange(9))
    images = read_images(tmp_path / "set.npz", 8)
    assert (images.images == IMAGES).all()
    assert (images.labels.dtype, images.labels.tolist()) == (np.int64, labels.tolist())
    assert images.classes == ("0", "1", "2")
    np.savez_compressed(tmp_path / "grey.npz", images=IMAGES[..., :1], labels=labels)
    assert read_images(tmp_path / "grey.npz", 8).images.shape == (9, 8, 8, 1)


def test_arrays_of_the_wrong_kind(tmp_path):
    labels = np.arange(9) % 3
    wrong = [
        ({"images": IMAGES.astype(np.float32), "labels": labels}, "float32"),
        ({"images": IMAGES[:0], "labels": labels[:0]}, "(0, 8, 8, 3)"),
        ({"images": IMAGES, "labels": labels[:8]}, "labels are (8,) for 9"),
        ({"images": IMAGES, "classes": labels}, "labels"),  # they would be lost
        ({"images": IMAGES, "labels": labels * 2}, "[0, 2, 4]"),
        ({"images": IMAGES, "labels": np.array(["cat"] * 9, dtype=object)}, "Object arrays cannot be loaded"),
        ({"images": IMAGES[:, :, :6], "labels": labels}, "6x8"),
    ]
    for arrays, complaint in wrong:
        np.savez(tmp_path / "set.npz", **arrays)
        assert complaint in message_of(tmp_path / "set.npz")


def test_corrupt_and_mixed_images_are_named(tmp_path):
    for damage, said in ((b"no image", " is no PNG, JPEG, BMP or WebP"), (FILES["cat/10.png"][:-30], ": ")):
        assert f"read: cat/10.png{said}" in message_of(write_zip(tmp_path / "a.zip", FILES | {"cat/10.png": damage}))
    for odd, complaint in [
        (pixels_of("x", 9), "bird/0001.png (8, 8, 3), cat/10.png (9, 9, 3)"),
        (np.dstack([pixels_of("x"), pixels_of("y")[..., :1]]), "cat/10.png: RGBA 8x8"),
    ]:
        assert complaint in message_of(write_zip(tmp_path / "set.zip", FILES | {"cat/10.png": encoded(odd)}))
    grey = {name: encoded(pixels_of(name)[..., 0]) for name in NAMES}
    assert (read_images(write_zip(tmp_path / "grey.zip", grey), 8).images == IMAGES[..., :1]).all()


def test_photographs_are_read_as_viewers_show_them(tmp_path):
    (exif := Image.Exif())[0x0112] = 6  # turned clockwise
    Image.fromarray(pixels_of("cat")).save(tmp_path / "cat.png", exif=exif)
    assert np.array_equal(read_images(tmp_path, 8).images[0], np.rot90(pixels_of("cat"), -1))


def test_no_images_no_file_and_no_class_folders(tmp_path):
    assert "no file ends in .png" in message_of(write_zip(tmp_path / "empty.zip", {"readme.txt": b""}))
    assert "No such file" in message_of(tmp_path / "no.zip")
    assert "at least 16x16" in message_of(write_zip(tmp_path / "small.zip", FILES), 16)
    assert "side by side" in message_of(write_zip(tmp_path / "set.zip", FILES | {"loose.png": FILES[NAMES[0]]}))


def test_images_without_classes_are_of_one(tmp_path):
    flat = {name.replace("/", "_"): content for name, content in FILES.items()}
    np.savez(tmp_path / "set.npz", images=IMAGES)
    null = FILES | {"dataset.json": b'{"labels": null}'}  # what EDM's tool writes without labels
    sets = [write_zip(tmp_path / f"{name}.zip", files) for name, files in (("flat", flat), ("null", null))]
    for path in (*sets, tmp_path / "set.npz"):
        found = read_images(path, 8)
        assert (found.labels.tolist(), found.classes) == ([0] * len(IMAGES), ("images",))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_absurd_sizes_are_refused_before_they_are_given_memory(tmp_path):
    message = message_of(write_zip(tmp_path / "set.zip", FILES | {NAMES[4]: png_header(3000, 3000)}))
    assert f"{NAMES[4]}: RGB 3000x3000 instead of L or RGB up to 4 megapixels" in message


def test_files_that_unpack_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("discriminator_guidance.core.images.MAX_FILE_BYTES", 2**16)
    path = write_zip(tmp_path / "set.zip", FILES | {"cat/bomb.png": bytes(2**16 + 1)})
    assert "cat/bomb.png has 65,537 bytes" in message_of(path)


def header_alone(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(2**40, 8, 8, 3), (2**40, 1, 1, 1), (2, -8, -8, 3), (0, 8, 8, 3)])
def test_arrays_that_are_not_as_large_as_their_header_says(tmp_path, shape):
    path = write_zip(tmp_path / "set.npz", {"images.npy": header_alone(shape), "labels.npy": header_alone((2**40,))})
    assert path.stat().st_size < 700
    assert "set.npz" in message_of(path)


@pytest.mark.parametrize("suffix", ["npz", "zip"])
def test_archives_that_grow_beyond_measure_are_not_unpacked(tmp_path, suffix):
    path, half = tmp_path / f"zeros.{suffix}", 2**20 - 64
    content = header_alone((2 * half, 8, 8, 1)) + bytes(half * 128)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
    assert "unpacks to 134," in message_of(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:  # whose reader has no limit of its own
        archive.writestr("images.npy", content[:1000])
    assert "compressed" in message_of(path)


DIGITS = Path(__file__).resolve().parents[2] / "data" / "raw" / "digits.npz"


def test_to_uint8_rounds_as_the_official_sampler_and_moves_channels_last():
    samples = np.array([-2.0, -1.0, 0.0, 0.999, 1.0, 5.0]).reshape(6, 1, 1, 1)
    assert to_uint8(torch.from_numpy(samples)).ravel().tolist() == [0, 0, 128, 255, 255, 255]
    samples = np.zeros((2, 3, 4, 5))
    samples[1, 2] = 1.0
    assert to_uint8(torch.from_numpy(samples))[1, ..., 2].tolist() == [[255] * 5] * 4


def test_shrinking_agrees_with_pillow_within_rounding():
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    for size in (8, 16):  # at other sizes Pillow weighs pixels differently
        pillow = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BOX)) for i in images])
        assert np.abs(shrink(images, size).astype(int) - pillow.astype(int)).max() <= 1
    for size in (8, 12, 16, 31):
        assert abs(shrink(images, size).mean() - images.mean()) < 0.2  # halves go upwards
    assert (shrink(np.full((1, 32, 32, 1), 200, np.uint8), 12) == 200).all()
    step = np.zeros((1, 3, 3, 1), np.uint8)
    step[0, :, 0] = 240
    assert shrink(step, 2)[0, :, :, 0].tolist() == [[160, 0], [160, 0]]
    with pytest.raises(ValueError, match="at least 48x48"):
        shrink(images, 48)


@pytest.mark.parametrize("image_size", [16, 24])
def test_digits_are_those_of_scikit_learn_enlarged_as_torch_does(image_size):
    source = load_digits()
    small = torch.from_numpy(source.images)[:, None] / 16
    large = interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    digits = read_digits(DIGITS, image_size)
    exact = image_size != 24  # at other sizes torch's own rounding shows
    np.testing.assert_allclose(digits.images[..., 0], 255 * large[:, 0].numpy(), rtol=0, atol=0.5 + 1e-9)
    assert not exact or (digits.images[..., 0] == (255 * large[:, 0]).round().numpy()).all()
    np.testing.assert_array_equal(digits.labels, source.target)
    assert digits.classes == tuple(str(name) for name in source.target_names)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.full((3, 8, 8), 17, np.uint8), np.zeros(3, np.uint8)),
        (np.zeros((3, 8, 8), np.uint8), np.array(["a", "b", "c"])),
    ],
)
def test_other_arrays_are_no_digits(tmp_path, images, labels):
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    with pytest.raises(InputError, match="from git"):
        read_digits(tmp_path / "d.npz", 8)
