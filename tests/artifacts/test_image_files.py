"""Pictures from folders, archives and arrays: the same set whatever holds it, and one clear error for what is wrong."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discriminator_guidance.artifacts import archives, image_files
from discriminator_guidance.artifacts.archives import source_digest
from discriminator_guidance.artifacts.downscale import downscale
from discriminator_guidance.artifacts.image_files import read_images
from discriminator_guidance.errors import InputError

CLASSES = ("bird", "cat", "deer")


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, format=form)
    return buffer.getvalue()


def pixels_of(name: str, side: int = 8) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)


NAMES = [f"{kind}/{number}.png" for kind in CLASSES for number in ("0001", "0002", "10")]
PICTURES = {name: encoded(pixels_of(name)) for name in NAMES}


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
    files = {f"00000/img{index:08d}.png": PICTURES[name] for index, name in enumerate(NAMES)}
    return write_zip(path, files | {"dataset.json": json.dumps({"labels": labels}).encode()})


@contextmanager
def no_bar(_total: int):
    yield lambda _: None


def read(path: Path, image_size: int = 8):
    return read_images(path, image_size, no_bar)


def message_of(path: Path, image_size: int = 8) -> str:
    with pytest.raises(InputError) as caught:
        read(path, image_size)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def expected() -> np.ndarray:
    return np.stack([pixels_of(name) for name in NAMES])


def test_folder_zip_and_nested_zip_hold_the_same_set(tmp_path):
    backwards = dict(reversed(PICTURES.items()))
    places = [
        write_folder(tmp_path / "folder", backwards),
        write_zip(tmp_path / "flat.zip", backwards),
        write_zip(tmp_path / "nested.zip", {f"train/{name}": content for name, content in backwards.items()}),
    ]
    for place in places:
        pictures = read(place)
        assert (pictures.images == expected()).all()
        assert pictures.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert pictures.classes == CLASSES


def test_order_does_not_depend_on_threads_or_chunks(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "set.zip", PICTURES)
    monkeypatch.setattr(image_files, "CHUNK_PIXELS", 2 * 64)
    done = []

    @contextmanager
    def bar(total):
        done.append(-total)
        yield done.append

    assert (read_images(path, 8, bar).images == expected()).all()
    assert sum(done) == 0
    assert len(done) == 6


def test_edm_zip_takes_classes_from_its_list(tmp_path):
    labels = [[f"00000/img{index:08d}.png", index % 2] for index in range(len(NAMES))]
    pictures = read(edm_zip(tmp_path / "edm.zip", labels[::-1]))
    assert (pictures.images == expected()).all()
    assert pictures.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert pictures.classes == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (None, "with labels"),
        ([["00000/img00000000.png", 0]], "exactly the pictures"),
        ([[f"00000/img{index:08d}.png", index] for index in range(10)], "00000/img00000009.png"),
        ([[f"00000/img{index:08d}.png", 0.5] for index in range(9)], "whole numbers from 0"),
        ([[f"00000/img{index:08d}.png", True] for index in range(9)], "whole numbers from 0"),
        ([[f"00000/img{index:08d}.png", -1] for index in range(9)], "whole numbers from 0"),
        ([[f"00000/img{index:08d}.png", index % 2 * 2] for index in range(9)], "none in 1"),
        ([[f"00000/img{max(index, 1):08d}.png", 0] for index in range(10)], "exactly the pictures"),
        ([3], "labels"),
    ],
)
def test_edm_list_that_does_not_fit(tmp_path, labels, complaint):
    assert complaint in message_of(edm_zip(tmp_path / "edm.zip", labels))


def test_edm_list_that_is_not_json(tmp_path):
    for text in (b"{", b"[" * 100_000, b"\xff", b"[]"):
        assert "dataset.json" in message_of(write_zip(tmp_path / "edm.zip", PICTURES | {"dataset.json": text}))


def test_arrays(tmp_path):
    labels = np.array([0, 1, 2] * 3, dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=expected(), labels=labels, index=np.arange(9))
    pictures = read(tmp_path / "set.npz")
    assert (pictures.images == expected()).all()
    assert pictures.labels.dtype == np.int64
    assert pictures.labels.tolist() == labels.tolist()
    assert pictures.classes == ("0", "1", "2")
    np.savez_compressed(tmp_path / "grey.npz", images=expected()[..., :1], labels=labels)
    assert read(tmp_path / "grey.npz", 8).images.shape == (9, 8, 8, 1)


def test_arrays_of_the_wrong_kind(tmp_path):
    images, labels = expected(), np.arange(9) % 3
    wrong = [
        ({"images": images.astype(np.float32), "labels": labels}, "float32"),
        ({"images": images[..., 0], "labels": labels}, "(9, 8, 8) uint8"),
        ({"images": images[:, :, :, :2], "labels": labels}, "(9, 8, 8, 2)"),
        ({"images": images[:0], "labels": labels[:0]}, "(0, 8, 8, 3)"),
        ({"images": images, "labels": labels[:8]}, "labels (9,)"),
        ({"images": images, "labels": labels + 0.5}, "whole numbers"),
        ({"images": images, "labels": labels - 1}, "from 0"),
        ({"images": images, "labels": labels * 2}, "none in 1"),
        ({"images": images}, "one array labels"),
        ({"images": images, "labels": np.array(["cat"] * 9, dtype=object)}, "Python objects"),
        ({"images": images[:, :, :6], "labels": labels}, "6x8"),
    ]
    for arrays, complaint in wrong:
        np.savez(tmp_path / "set.npz", **arrays)
        assert complaint in message_of(tmp_path / "set.npz")


def test_array_header_that_claims_more_than_there_is(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 4096, 4096, 3), }"
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    labels = io.BytesIO()
    np.save(labels, np.zeros(4, dtype=np.int64))
    path = write_zip(tmp_path / "set.npz", {"images.npy": magic + b"\0" * 64, "labels.npy": labels.getvalue()})
    assert "claims 50,331,648,000,000 bytes" in message_of(path)
    for damaged in (b"", b"\x93NUMPY", magic[:-9], b"\x93NUMPY\x07\x00" + magic[8:], magic.replace(b"'|u1'", b"[('a")):
        path = write_zip(tmp_path / "set.npz", {"images.npy": damaged, "labels.npy": labels.getvalue()})
        assert "a whole .npz file" in message_of(path)


def test_truncated_archives(tmp_path):
    whole = write_zip(tmp_path / "set.zip", PICTURES).read_bytes()
    np.savez(tmp_path / "arrays.npz", images=expected(), labels=np.arange(9) % 3)
    arrays = (tmp_path / "arrays.npz").read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.zip").write_bytes(whole[:length])
        assert "a whole zip archive" in message_of(tmp_path / "cut.zip")
    for length in (0, 100, len(arrays) // 2, len(arrays) - 10):
        (tmp_path / "cut.npz").write_bytes(arrays[:length])
        assert "a whole .npz file" in message_of(tmp_path / "cut.npz")


def test_flipped_bytes_inside_an_archive_name_the_file(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so the picture's bytes can be found
        for name, content in PICTURES.items():
            archive.writestr(name, content)
    content = path.read_bytes().replace(PICTURES["cat/10.png"], PICTURES["cat/10.png"][:-20] + b"\0" * 20)
    path.write_bytes(content)
    assert "an undamaged cat/10.png" in message_of(path)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no picture",
        PICTURES["cat/10.png"][:-30],
        PICTURES["cat/10.png"][:20],
        encoded(pixels_of("x"), "JPEG")[:300],
    ],
    ids=["empty", "text", "cut PNG", "header only", "cut JPEG"],
)
def test_corrupt_pictures_are_named(tmp_path, damage):
    assert "a whole picture cat/10.png" in message_of(
        write_zip(tmp_path / "set.zip", PICTURES | {"cat/10.png": damage})
    )


def test_gif_in_disguise_is_refused(tmp_path):
    disguised = PICTURES | {"cat/10.png": encoded(pixels_of("x"), "GIF")}
    assert "cat/10.png" in message_of(write_zip(tmp_path / "set.zip", disguised))


def test_mixed_sizes_and_kinds_name_both_pictures(tmp_path):
    for odd, complaint in [
        (pixels_of("x", 9), "bird/0001.png RGB 8x8, cat/10.png RGB 9x9"),
        (pixels_of("x")[..., 0], "bird/0001.png RGB 8x8, cat/10.png greyscale 8x8"),
        (np.dstack([pixels_of("x"), pixels_of("y")[..., :1]]), "cat/10.png, RGBA 8x8"),
    ]:
        assert complaint in message_of(write_zip(tmp_path / "set.zip", PICTURES | {"cat/10.png": encoded(odd)}))


def test_grey_sets_have_one_channel(tmp_path):
    grey = {name: encoded(pixels_of(name)[..., 0]) for name in NAMES}
    assert (read(write_zip(tmp_path / "set.zip", grey)).images == expected()[..., :1]).all()


def test_empty_classes(tmp_path):
    folder = write_folder(tmp_path / "folder", PICTURES)
    (folder / "dog").mkdir()
    assert "none in dog" in message_of(folder)
    (folder / "dog" / "notes.txt").write_text("none yet")
    assert "none in dog" in message_of(folder)
    assert "none in dog" in message_of(write_zip(tmp_path / "a.zip", PICTURES | {"dog/notes.txt": b""}))
    with zipfile.ZipFile(write_zip(tmp_path / "b.zip", {f"x/{n}": c for n, c in PICTURES.items()}), "a") as archive:
        archive.mkdir("x/dog")
    assert "none in x/dog" in message_of(tmp_path / "b.zip")


def test_no_pictures_and_no_file(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "got none" in message_of(tmp_path / "empty")
    assert "got none" in message_of(write_zip(tmp_path / "empty.zip", {"readme.txt": b""}))
    for name in ("no", "no.zip", "no.npz"):
        assert "no such file" in message_of(tmp_path / name)


def test_pictures_outside_class_folders(tmp_path):
    for odd in ("loose.png", "deer/fawn/1.png"):
        path = write_zip(tmp_path / "set.zip", PICTURES | {odd: PICTURES[NAMES[0]]})
        assert "side by side" in message_of(path)


def test_files_of_the_system_are_passed_over(tmp_path):
    extra = {"__MACOSX/cat/._10.png": b"junk", ".DS_Store": b"junk", "cat/.thumb.png": b"junk", "readme.md": b"hello"}
    for path in (write_zip(tmp_path / "set.zip", PICTURES | extra), write_folder(tmp_path / "set", PICTURES | extra)):
        assert (read(path).images == expected()).all()


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "cat/../../evil.png", "/etc/evil.png", "C:/evil.png", "cat\\evil.png", "cat//evil.png", "./e.png"],
)
def test_names_that_point_elsewhere(tmp_path, name):
    assert "relative names" in message_of(write_zip(tmp_path / "set.zip", PICTURES | {name: PICTURES[NAMES[0]]}))


def test_a_name_with_a_hidden_end(tmp_path):
    path = write_zip(tmp_path / "set.zip", PICTURES | {"cat/10_png.exe": b""})
    path.write_bytes(path.read_bytes().replace(b"cat/10_png.exe", b"cat/10.png\0exe"))
    assert "'cat/10.png\\x00exe'" in message_of(path) or "more than once" in message_of(path)


def test_names_that_occur_twice(tmp_path):
    path = write_zip(tmp_path / "set.zip", PICTURES)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("cat/10.png", PICTURES[NAMES[0]])
    assert "'cat/10.png' more than once" in message_of(path)


def test_links(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURES[NAMES[0]])
    folder = write_folder(tmp_path / "folder", PICTURES)
    (folder / "cat" / "link.png").symlink_to(secret)
    assert "cat/link.png, a link or device" in message_of(folder)
    (folder / "cat" / "link.png").unlink()
    os.mkfifo(folder / "cat" / "pipe.png")
    assert "cat/pipe.png, a link or device" in message_of(folder)
    entry = zipfile.ZipInfo("cat/link.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(write_zip(tmp_path / "set.zip", PICTURES), "a") as archive:
        archive.writestr(entry, str(secret))
    assert "cat/link.png, a link or device" in message_of(tmp_path / "set.zip")


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [3000, 12_000, 30_000, 2**31 - 1])
@pytest.mark.parametrize("name", [NAMES[0], NAMES[-1]])
def test_absurd_sizes_are_refused_before_they_are_given_memory(tmp_path, side, name):
    bomb = write_zip(tmp_path / "set.zip", PICTURES | {name: png_header(side, side)})
    assert name in message_of(bomb)


def test_too_much_in_all(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "set.zip", PICTURES)
    monkeypatch.setattr(image_files, "MAX_TOTAL_BYTES", 9 * 8 * 8 * 3 - 1)
    assert "9 of 8x8" in message_of(path)


@pytest.mark.parametrize("name", ["a/" * 10000 + "1.png", "a/" * 33 + "1.png", "a/" + "x" * 1100 + ".png"])
def test_deep_and_long_names_are_refused_before_they_are_taken_apart(tmp_path, name, monkeypatch):
    monkeypatch.setattr(archives, "_ends", lambda folder: pytest.fail("taken apart"))
    path = write_zip(tmp_path / "a.zip", {name: encoded(pixels_of("1"))})
    assert "names of at most 1024 letters and 32 folders" in message_of(path)


def test_files_that_unpack_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 2**16)
    bomb = PICTURES | {"cat/bomb.png": bytes(2**16 + 1)}
    for path in (write_zip(tmp_path / "set.zip", bomb), write_folder(tmp_path / "set", bomb)):
        assert "cat/bomb.png, which is larger" in message_of(path)


def test_a_file_that_unpacks_to_more_than_it_says(tmp_path):
    path = write_zip(tmp_path / "set.zip", PICTURES | {"cat/bomb.png": bytes(2**20)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 500)))
    assert "an undamaged cat/bomb.png" in message_of(path)


def test_encrypted_or_rarely_compressed_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("cat/10.png", PICTURES[NAMES[0]])
    assert "compressed otherwise" in message_of(tmp_path / "set.zip")


def test_downscaling_agrees_with_pillow_within_rounding(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    for size in (8, 16):  # at other sizes Pillow weighs pixels differently
        ours = downscale(images, size, tmp_path)
        pillow = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BOX)) for i in images])
        assert np.abs(ours.astype(int) - pillow.astype(int)).max() <= 1
    for size in (8, 12, 16, 31):
        assert abs(downscale(images, size, tmp_path).mean() - images.mean()) < 0.2  # halves go upwards
    assert (downscale(np.full((1, 32, 32, 1), 200, np.uint8), 12, tmp_path) == 200).all()


def test_downscaling_averages_over_area(tmp_path):
    step = np.zeros((1, 3, 3, 1), np.uint8)
    step[0, :, 0] = 240
    assert downscale(step, 2, tmp_path)[0, :, :, 0].tolist() == [[160, 0], [160, 0]]


def test_pictures_are_reduced_on_reading_but_never_enlarged(tmp_path):
    path = write_zip(tmp_path / "set.zip", PICTURES)
    assert (read(path, 4).images == downscale(expected(), 4, path)).all()
    assert "at least 16x16" in message_of(path, 16)
    tall = {name: encoded(pixels_of(name)[:, :6]) for name in NAMES}
    assert "6x8" in message_of(write_zip(tmp_path / "tall.zip", tall), 6)


def test_source_digest_follows_names_and_contents(tmp_path):
    folder = write_folder(tmp_path / "a", PICTURES)
    before = source_digest(folder)
    assert source_digest(write_folder(tmp_path / "b", dict(reversed(PICTURES.items())))) == before
    (folder / NAMES[0]).rename(folder / "bird" / "other.png")
    assert source_digest(folder) != before
    (folder / "bird" / "other.png").rename(folder / NAMES[0])
    assert source_digest(folder) == before
    (folder / NAMES[0]).write_bytes(b"")
    assert source_digest(folder) != before
