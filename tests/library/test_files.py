"""Files are complete or absent, numbers have nine digits, damage is one line; checkpoints are found by their key."""

import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.checkpoints.edm_pickle import read_edm
from discriminator_guidance.core import files
from discriminator_guidance.core.errors import InputError, UserError
from discriminator_guidance.core.files import (
    Resumable,
    load_arrays,
    read_json,
    read_npz,
    sha256,
    write_bytes,
    write_csv,
    write_json,
    write_npz,
)
from discriminator_guidance.core.images import open_images
from tests.commands import PROJECT

KEY = {"inputs": {"a": "0" * 64}, "settings": {"steps": 12}}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match=r"a\.json cannot be written: No space left on device; free disk"):
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
    read = load_arrays(tmp_path / "a.npz", [*arrays], "s")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], array) and read[name].dtype == array.dtype for name, array in arrays.items())


def test_missing_incomplete_and_pickled_arrays(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(InputError, match="does not exist; run `dvc repro` \\(stage fake"):
        read_npz(path, ["x"], "fake")
    write_npz(path, x=np.arange(1000))
    with pytest.raises(InputError, match="has no 'y'"):
        read_npz(path, ["y"], "fake")
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="run stage fake again"):
        read_npz(path, ["x"], "fake")
    for damaged in (np.array(["a"]), np.zeros((2, 3))):
        write_npz(path, images=damaged)
        with pytest.raises(InputError, match=r"images in .*a\.npz is .*; run stage fake again"):
            read_npz(path, ["images"], "fake")


@pytest.mark.parametrize("read", [open_images, read_adm, read_edm, lambda path: load_arrays(path, ["x"], "get it")])
@pytest.mark.parametrize("name", ["set.npz", "set.zip", "set"])
def test_pipes_are_not_waited_for(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="a pipe or a device"):
        read(tmp_path / name)


@pytest.fixture
def work(tmp_path):
    def make(name="guided-d0", **changes) -> Resumable:
        return Resumable(tmp_path, name, {**KEY, **changes})

    return make


def shard_of(work: Resumable, number: int) -> dict[str, np.ndarray] | None:
    try:
        return work.load_shard(number)
    except InputError:
        return None


def test_shards_are_found_by_a_later_process_with_the_same_name_and_key(work, tmp_path):
    work().save_shard(3, images=np.arange(4))
    assert work().load_shard(3)["images"].tolist() == [0, 1, 2, 3]
    assert shard_of(work(), 2) is None
    assert shard_of(work(torch="other"), 3) is None
    assert shard_of(work("guided-d1"), 3) is None
    work().remove()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_is_resumed_after_an_edit_of_the_code(work, tmp_path, monkeypatch):
    source, here = tmp_path / "discriminator_guidance", files.__file__.rpartition("/discriminator_guidance/")[2]
    shutil.copytree(PROJECT / "src/discriminator_guidance", source)
    monkeypatch.setattr(files, "__file__", str(source / here))
    folders = []
    for comment in ("", "", "# edited"):
        with (source / "__init__.py").open("a") as stream:
            stream.write(comment)
        files.source_hash.cache_clear()
        folders.append(work().folder)
    assert folders[0] == folders[1] != folders[2]


def test_damage_is_missing_and_never_changes_what_is_resumed(work):
    score = work("score")
    score.save({"weights": torch.ones(300)})
    score.save_shard(0, x=np.arange(300))
    for path in list(score.folder.iterdir()):
        content = path.read_bytes()
        for kept in (0.0, 0.01, 0.5, 0.999):
            path.write_bytes(content[: int(kept * len(content))])
            assert (shard_of(score, 0) if path.suffix == ".npz" else score.load()) is None
        for bit in map(int, np.random.default_rng(0).choice(8 * len(content), 100, replace=False)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            state, shard = score.load(), shard_of(score, 0)
            assert state is None or torch.equal(state["weights"], torch.ones(300))
            assert shard is None or np.array_equal(shard["x"], np.arange(300))
        path.write_bytes(content)


def test_a_pickle_by_that_name_is_missing_and_does_not_run(work, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    score = work("score")
    score.folder.mkdir(parents=True)
    torch.save({"x": Evil()}, score.folder / "checkpoint.pt")
    (score.folder / "shard-00000.npz").write_bytes(pickle.dumps(Evil()))
    assert score.load() is None
    assert shard_of(score, 0) is None
    assert not (tmp_path / "ran").exists()
