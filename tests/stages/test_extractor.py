"""What stages that train a network write and track; stage `extractor` with released ADM classifiers."""

import csv

import numpy as np
import pytest
import torch

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import write_npz

from .conftest import Tiny, load, run_stage, tiny_settings, write_params
from .released import FEATURES, classifier_file

PATH = "data/raw/classifier.pt"


@pytest.mark.parametrize(("word", "classes"), [("score", 10), ("extractor", 10), ("extractor", 1), ("fid_network", 1)])
def test_a_training_stage_writes_weights_and_curve_and_tracks_them(tiny: Tiny, word: str, classes: int):
    _, layout = tiny
    arrays = dict(np.load(layout.real / "train.npz"))
    write_npz(layout.real / "train.npz", **arrays | {"labels": arrays["labels"] % classes})
    summary, tracker = run_stage(word, tiny)
    rows = list(csv.DictReader((layout.model(word) / "history.csv").open()))
    assert [int(row["iteration"]) for row in rows] == [20, 40]
    assert [step for step, _ in tracker.curve] == [20, 40]
    for row, (_, values) in zip(rows, tracker.curve, strict=True):
        assert {key: float(row[key]) for key in values} == pytest.approx(values, rel=1e-8)
    assert not set(summary) & set(tracker.curve[0][1]), "a summary would continue the curves"
    assert summary["parameters"] == sum(parameter.numel() for parameter in load(layout, word).parameters())


def test_a_released_classifier_gives_the_features_of_the_original(tiny: Tiny):
    config, layout = write_params(tiny[1].root, tiny_settings({"extractor": {"source": "adm", "path": PATH}}))
    original = classifier_file(layout.root / PATH)
    summary, _ = run_stage("extractor", (config, layout))
    network = load(layout, "extractor")
    x, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.5, 1.0])
    features = network.features(x, t)
    assert features.shape[1:] == FEATURES == network.feature_shape
    assert torch.equal(features, original.features(x, t))
    assert (layout.model("extractor") / "history.csv").read_text() == "iteration,loss\n"
    assert summary["parameters"] == sum(parameter.numel() for parameter in original.parameters())
    classifier_file(layout.root / PATH, image_size=16)
    with pytest.raises(InputError, match=r"the network in .* has image_size 16 instead of 8.*real\.image_size"):
        run_stage("extractor", (config, layout))
