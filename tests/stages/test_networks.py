"""Networks that the stages load and train, whichever they are."""

from __future__ import annotations

import csv

import pytest
import torch
from safetensors.torch import load_file

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import save_weights

from .conftest import Tiny, load, run_stage

TRAINED = ("score", "extractor", "fid_network")


@pytest.mark.parametrize("word", [*TRAINED, "discriminator/d0"])
def test_networks_are_loaded_frozen_and_those_of_other_arguments_refused(tiny: Tiny, word: str):
    _, layout = tiny
    network = load(layout, word)
    saved = load_file(layout.model(word) / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    save_weights(layout.model(word), {"a": torch.ones(1)}, {"foo": 1})
    stage = word.partition("/")[0]
    with pytest.raises(InputError, match=rf"expected weights that fit their config.json.*run stage {stage} again"):
        load(layout, word)


@pytest.mark.parametrize("word", TRAINED)
def test_a_training_stage_writes_weights_and_curve_and_tracks_them(tiny: Tiny, word: str):
    _, layout = tiny
    summary, tracker = run_stage(word, tiny)
    rows = list(csv.DictReader((layout.model(word) / "history.csv").open()))
    assert [int(row["iteration"]) for row in rows] == [20, 40]
    assert [step for step, _ in tracker.curve] == [20, 40]
    for row, (_, values) in zip(rows, tracker.curve, strict=True):
        assert {key: float(row[key]) for key in values} == pytest.approx(values, rel=1e-8)
    assert not set(summary) & set(tracker.curve[0][1]), "a summary would continue the curves"
    assert tracker.models == {f"{word}-mini": layout.model(word) / "model.safetensors"}
    network = load(layout, word)
    assert summary["parameters"] == sum(parameter.numel() for parameter in network.parameters())
