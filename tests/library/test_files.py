"""Files are complete or absent, numbers have nine digits, and damage is one line."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pandas as pd
import pytest

from discriminator_guidance.core.errors import InputError, UserError
from discriminator_guidance.core.files import (
    load_arrays,
    read_json,
    read_npz,
    sha256,
    write_bytes,
    write_csv,
    write_json,
    write_npz,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match=r"to write .*a\.json; got No space left on device; free disk"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_numbers_have_nine_significant_digits(tmp_path):
    write_json(tmp_path / "a.json", {"x": 0.1 + 0.2, "deep": [{"y": (1e-20 / 3, 2**60, True)}], "z": np.float64(1 / 3)})
    assert read_json(tmp_path / "a.json", "s") == {
        "x": 0.3,
        "deep": [{"y": [3.33333333e-21, 2**60, True]}],
        "z": 0.333333333,
    }
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "b.json", {"x": [wrong]})
    assert not (tmp_path / "b.json").exists()


def test_tables_of_rows_and_of_pandas_are_the_same_file(tmp_path):
    rows = [{"epoch": 1, "loss": 0.1 + 0.2, "name": "a,b"}, {"epoch": 2, "loss": 1e-9 / 3, "name": "c"}]
    write_csv(tmp_path / "rows.csv", rows)
    write_csv(tmp_path / "frame.csv", pd.DataFrame(rows))
    assert (tmp_path / "rows.csv").read_text() == 'epoch,loss,name\n1,0.3,"a,b"\n2,3.33333333e-10,c\n'
    assert (tmp_path / "frame.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


def test_arrays_come_back_and_equal_ones_give_equal_bytes(tmp_path):
    arrays = {"x": np.arange(6).reshape(2, 3).T, "empty": np.zeros((0, 3)), "words": np.array(["a", "bc"])}
    for name in ("a", "b"):
        write_npz(tmp_path / f"{name}.npz", **arrays)
    assert sha256(tmp_path / "a.npz") == sha256(tmp_path / "b.npz")
    assert sha256(tmp_path / "a.npz").startswith("0e9c97f74ae6abef"), "other bytes than with other versions of Python"
    read = read_npz(tmp_path / "a.npz", [*arrays], "s")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], array) and read[name].dtype == array.dtype for name, array in arrays.items())


def test_missing_incomplete_and_pickled_arrays(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(InputError, match="no such file; run `dvc repro` \\(stage fake"):
        read_npz(path, ["x"], "fake")
    write_npz(path, x=np.arange(1000))
    with pytest.raises(InputError, match="no array y"):
        read_npz(path, ["y"], "fake")
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="run stage fake again"):
        read_npz(path, ["x"], "fake")


def test_json_that_nests_too_deeply_and_pipes_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ' + "[" * 100_000)
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(tmp_path / "a.json", "s")
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(InputError, match="a pipe or a device"):
        load_arrays(tmp_path / "a.npz", ["x"], "get it again")


def test_arrays_that_claim_or_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(InputError, match=r"0 bytes of an array \(1099511627776,\) float64"):
        load_arrays(tmp_path / "a.npz", ["x"], "get it again")
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(100_000))
    monkeypatch.setattr("discriminator_guidance.core.files.MAX_ARRAY_BYTES", 2**16)
    with pytest.raises(InputError, match="an array of 800,128 bytes"):
        load_arrays(tmp_path / "a.npz", ["x"], "get it again")
