"""Unfinished work is found again only by what determines the result."""

from __future__ import annotations

import numpy as np
import torch

from discriminator_guidance.artifacts.partial import PartialWork

TOLD = {"inputs": {"a": "0" * 64}, "settings": {"steps": 12}}


def test_work_is_found_by_a_later_process_with_the_same_determinants(tmp_path):
    PartialWork(tmp_path, "guided-d0", TOLD).save_shard(3, images=np.arange(4))
    found = PartialWork(tmp_path, "guided-d0", TOLD).load_shard(3)
    assert found is not None
    assert found["images"].tolist() == [0, 1, 2, 3]
    assert PartialWork(tmp_path, "guided-d0", TOLD).load_shard(2) is None


def test_any_other_determinant_starts_anew(tmp_path):
    PartialWork(tmp_path, "guided-d0", TOLD).save_shard(0, images=np.arange(4))
    assert PartialWork(tmp_path, "guided-d0", {**TOLD, "torch": "other"}).load_shard(0) is None
    assert PartialWork(tmp_path, "guided-d1", TOLD).load_shard(0) is None


def test_training_state_survives(tmp_path):
    work = PartialWork(tmp_path, "score", TOLD)
    assert work.load() is None
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    work.save({"optimizer": optimizer.state_dict(), "history": [{"loss": 0.1}], "iteration": 5})
    state = work.load()
    assert state is not None
    assert state["iteration"] == 5
    assert state["history"] == [{"loss": 0.1}]


def test_remove_forgets(tmp_path):
    work = PartialWork(tmp_path, "score", TOLD)
    work.save({"iteration": 1})
    work.remove()
    assert work.load() is None
    assert list(tmp_path.iterdir()) == []
