"""Files are whole or absent."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from discriminator_guidance.artifacts.files import (
    ARCHIVE_ERRORS,
    fingerprint,
    read_array_header,
    read_json,
    read_npz,
    sha256,
    write_bytes,
    write_csv,
    write_json,
    write_npz,
)
from discriminator_guidance.errors import InputError, OutputError
from tests.amount import FULL, count


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OutputError, match=r"to write .*a\.json \(3 bytes\); got No space left on device; give it room"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_every_digit_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": 0.1 + 0.2})
    assert read_json(tmp_path / "a.json", "s")["x"] == 0.1 + 0.2
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_json_names_file_and_remedy(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json.*run stage s again"):
        read_json(tmp_path / "a.json", "s")


def test_equal_arrays_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_npz(tmp_path / f"{name}.npz", x=np.arange(5), y=np.ones(2))
    assert sha256(tmp_path / "a.npz") == sha256(tmp_path / "b.npz")


def test_damaged_missing_and_incomplete_arrays(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(InputError, match="no such file; run `dvc repro` \\(stage fake"):
        read_npz(path, ["x"], "fake")
    write_npz(path, x=np.arange(1000))
    with pytest.raises(InputError, match="array y"):
        read_npz(path, ["y"], "fake")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="run stage fake again"):
        read_npz(path, ["x"], "fake")


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError):
        read_npz(tmp_path / "a.npz", ["x"], "fake")


def test_csv_reads_back_exactly(tmp_path):
    write_csv(tmp_path / "a.csv", [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-9}])
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss"
    assert float(lines[1].split(",")[1]) == 0.1 + 0.2


def test_fingerprint_ignores_order_and_sees_every_value():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert fingerprint({"a": float("inf")})
    json.dumps({"a": fingerprint({})})


LIMITED = """
import resource, sys
from pathlib import Path
from discriminator_guidance.artifacts.files import write_bytes
from discriminator_guidance.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_bytes(Path("small"), b"x" * 1000)
try:
    write_bytes(Path("small"), b"y" * 1001)
except OutputError as error:
    print(error)
"""


def test_a_limit_that_is_hit_in_the_midst_of_a_write_leaves_what_was_whole(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "small (1,001 bytes); got File too large; give it room" in done.stdout
    assert (tmp_path / "small").read_bytes() == b"x" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a folder without permission")
def test_a_folder_without_permission_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            write_bytes(tmp_path / "folder" / "a", b"")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(OutputError, match=r"folder/a"):
        write_bytes(tmp_path / "folder" / "a", b"")


def test_no_flipped_bit_of_an_archive_changes_a_number(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"x": np.arange(3, dtype=np.int16), "y": np.array([0.5])}
    write_npz(path, **arrays)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    bits = range(8 * len(content)) if FULL else random.choice(8 * len(content), 400, replace=False)
    refused = 0
    for bit in map(int, bits):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            read = read_npz(path, ["x", "y"], "s")
        except InputError:
            refused += 1
            continue
        assert all(
            np.array_equal(read[name], array) and read[name].dtype == array.dtype for name, array in arrays.items()
        )
    assert refused > 0.5 * len(bits)
    count("bits flipped: arrays", len(bits))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_header_tells_what_it_claims_and_what_is_there(tmp_path, version):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.zeros((3, 5), dtype=np.int16), version=version)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("whole.npy", content.getvalue())
        archive.writestr("short.npy", content.getvalue()[:-10])
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert read_array_header(archive, archive.getinfo("whole.npy")) == (np.int16, 30, 30)
        assert read_array_header(archive, archive.getinfo("short.npy")) == (np.int16, 30, 20)


def test_no_flipped_bit_of_a_header_shortens_an_array(tmp_path):
    path = tmp_path / "a.npz"
    pictures = np.zeros((500, 8, 8, 1), np.uint8)  # more than zipfile reads ahead
    write_npz(path, images=pictures)
    content = path.read_bytes()
    shorter = 0
    for bit in range(8 * 256):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with suppress(*ARCHIVE_ERRORS), np.load(path, allow_pickle=False) as archive:
            shorter += len(archive["images"]) < 500
        with suppress(InputError):
            assert np.array_equal(read_npz(path, ["images"], "s")["images"], pictures)
    assert shorter, "numpy itself takes a shorter array"


def test_no_shortened_archive_is_taken_for_whole(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, x=np.arange(3))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="run stage s again"):
            read_npz(path, ["x"], "s")
