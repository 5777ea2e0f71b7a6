"""What stages that train a network write and track, whichever it is."""

from __future__ import annotations

import csv

import pytest

from .conftest import Tiny, load, run_stage


@pytest.mark.parametrize("word", ["score", "extractor", "fid_network"])
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
