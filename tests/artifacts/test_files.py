"""Files are whole or absent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from discriminator_guidance.artifacts.files import (
    fingerprint,
    read_json,
    read_npz,
    sha256,
    write_bytes,
    write_csv,
    write_json,
    write_npz,
)
from discriminator_guidance.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
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
