"""Shards and checkpoints are found again only under the key that determines it, and only undamaged."""

from __future__ import annotations

import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch

from discriminator_guidance.core.files import Resumable
from tests.commands import PROJECT, succeed

KEY = {"inputs": {"a": "0" * 64}, "settings": {"steps": 12}}


@pytest.fixture
def work(tmp_path):
    def make(name="guided-d0", **changes) -> Resumable:
        return Resumable(tmp_path, name, {**KEY, **changes})

    return make


def test_shards_are_found_by_a_later_process_with_the_same_name_and_key(work, tmp_path):
    work().save_shard(3, images=np.arange(4))
    assert work().load_shard(3)["images"].tolist() == [0, 1, 2, 3]
    assert work().load_shard(2) is None
    assert work(torch="other").load_shard(3) is None
    assert work("guided-d1").load_shard(3) is None
    work().remove()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_is_resumed_after_an_edit_of_the_code(tmp_path):
    source = tmp_path / "src/discriminator_guidance"
    shutil.copytree(PROJECT / "src/discriminator_guidance", source)
    program = "from pathlib import Path; from discriminator_guidance.core.files import Resumable;"
    program += "print(Resumable(Path('work'), 'guided', {}).folder)"
    folders = []
    for comment in ("", "", "# edited"):
        with (source / "guidance.py").open("a") as stream:
            stream.write(comment)
        folders.append(succeed(tmp_path, sys.executable, "-c", program, PYTHONPATH=str(tmp_path / "src")))
    assert folders[0] == folders[1] != folders[2]


def test_damage_is_missing_and_never_changes_what_is_resumed(work):
    score = work("score")
    score.save({"weights": torch.ones(300)})
    score.save_shard(0, x=np.arange(300))
    for path in list(score.folder.iterdir()):
        content = path.read_bytes()
        for kept in (0.0, 0.01, 0.5, 0.999):
            path.write_bytes(content[: int(kept * len(content))])
            assert (score.load_shard(0) if path.suffix == ".npz" else score.load()) is None
        for bit in map(int, np.random.default_rng(0).choice(8 * len(content), 100, replace=False)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            state, shard = score.load(), score.load_shard(0)
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
    assert score.load_shard(0) is None
    assert not (tmp_path / "ran").exists()
