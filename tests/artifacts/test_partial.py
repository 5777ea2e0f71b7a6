"""Unfinished work is found again only by what determines the result, and only whole."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from discriminator_guidance.artifacts.partial import PartialWork, sealed_files, unsealed
from tests.amount import cases, count

TOLD = {"inputs": {"a": "0" * 64}, "settings": {"steps": 12}}


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def work(tmp_path, notices):
    def make(stage="guided-d0", **changes) -> PartialWork:
        return PartialWork(tmp_path, stage, {**TOLD, **changes}, notices.append)

    return make


def test_work_is_found_by_a_later_process_with_the_same_determinants(work):
    work().save_shard(3, images=np.arange(4))
    found = work().load_shard(3)
    assert found is not None
    assert found["images"].tolist() == [0, 1, 2, 3]
    assert work().load_shard(2) is None


def test_any_other_determinant_starts_anew(work, notices):
    work().save_shard(0, images=np.arange(4))
    assert work(torch="other").load_shard(0) is None
    assert work("guided-d1").load_shard(0) is None
    assert not notices


def test_training_state_survives(work):
    score = work("score")
    assert score.load() is None
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    score.save({"optimizer": optimizer.state_dict(), "history": [{"loss": 0.1}], "iteration": 5})
    state = score.load()
    assert state is not None
    assert state["iteration"] == 5
    assert state["history"] == [{"loss": 0.1}]


def test_a_state_of_a_gpu_waits_in_main_memory(work, monkeypatch):
    """Without a GPU, or with one for each rank: the first has no room for what belongs to all."""
    score = work("score")
    with monkeypatch.context() as gpu:
        gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        score.save({"network": {"weight": torch.ones(2)}})
    state = score.load()
    assert state is not None
    assert state["network"]["weight"].device == torch.device("cpu")
    assert state["network"]["weight"].tolist() == [1.0, 1.0]


def test_remove_forgets(work, tmp_path):
    score = work("score")
    score.save({"iteration": 1})
    score.remove()
    assert score.load() is None
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_anywhere_makes_a_shard_unfinished(work, notices):
    shards = work()
    shards.save_shard(0, images=np.arange(6, dtype=np.uint8))
    (path,) = sealed_files(shards.folder.parent)
    content = path.read_bytes()
    bits = np.random.default_rng(0).choice(8 * len(content), cases(100, 2000), replace=False)
    for bit in map(int, bits):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        assert shards.load_shard(0) is None
    assert len(notices) == len(bits)
    count("bits flipped: unfinished work", len(bits))
    assert all("shard-00000.sealed is damaged; its work is done again" in line for line in notices)
    path.write_bytes(content)
    assert shards.load_shard(0) is not None


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33, 0.5, -1])
def test_a_shortened_checkpoint_is_none(work, notices, kept):
    score = work("score")
    score.save({"weights": torch.ones(3)})
    (path,) = sealed_files(score.folder.parent)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert score.load() is None
    assert len(notices) == 1


def test_swapped_shards_and_those_of_other_work_are_not_taken(work, notices):
    shards, others = work(), work("guided-d1")
    for one in (shards, others):
        for number in (0, 1):
            one.save_shard(number, images=np.full(2, number))
    first, second, foreign, _ = sealed_files(shards.folder.parent)
    shutil.copyfile(second, first)
    assert shards.load_shard(0) is None
    shutil.copyfile(foreign, second)
    assert shards.load_shard(1) is None
    assert unsealed(foreign) is not None
    assert len(notices) == 2
