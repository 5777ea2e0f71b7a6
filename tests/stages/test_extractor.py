"""Stage `extractor`."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.networks.precision import resolve_compute
from discriminator_guidance.stages.networks import load_extractor

from .conftest import Study
from .released import FEATURES, classifier_file, head_file
from .trained_checks import TrainedStage


class TestExtractor(TrainedStage):
    word = "extractor"

    def test_other_times_train_another_network(self, study: Study, tmp_path):
        study.ensure("extractor")
        other = Study(tmp_path)
        other.settings["extractor"]["uniform_time_fraction"] = 0.0
        other.run("real")
        other.run("extractor")
        curves = [s.layout.model("extractor") / "history.csv" for s in (study, other)]
        assert curves[0].read_bytes() != curves[1].read_bytes()


@pytest.fixture
def adm(tmp_path) -> Study:
    """A study whose extractor is a file that is not there yet."""
    study = Study(tmp_path)
    study.settings["extractor"] = {"source": "adm", "path": "classifier.pt"}
    study.run("real")
    return study


def test_a_released_classifier_gives_the_features_of_the_original(adm: Study):
    original = classifier_file(adm.root / "classifier.pt")
    result = adm.run("extractor")
    network = load_extractor(adm.layout, resolve_compute("cpu", "float32"))
    x, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.5, 1.0])
    features = network.features(x, t)
    assert features.shape[1:] == FEATURES == network.feature_shape
    assert torch.equal(features, original.features(x, t))
    assert (adm.layout.model("extractor") / "history.csv").read_text() == "iteration,loss\n"
    assert result.summary["parameters"] == sum(parameter.numel() for parameter in original.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 16}, "8 pixels and 1 channels in classifier.pt; got 16 pixels and 1 channels.*real.image_size"),
        ({"in_channels": 3}, "8 pixels and 1 channels in classifier.pt; got 8 pixels and 3 channels"),
        ({"condition": True}, "a classifier in classifier.pt; got one that is given classes; change extractor.path"),
    ],
)
def test_a_classifier_of_another_kind_is_refused(adm: Study, changes, words):
    classifier_file(adm.root / "classifier.pt", **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        adm.run("extractor")
    assert "\n" not in str(caught.value)
    assert not adm.layout.model("extractor").exists()


def test_a_discriminator_in_its_place_is_refused(adm: Study):
    head_file(adm.root / "classifier.pt")
    with pytest.raises(ConfigError, match="got 8 pixels and 64 channels"):
        adm.run("extractor")


def test_a_missing_file_names_the_command_that_gets_it(adm: Study):
    with pytest.raises(InputError, match=r"extractor\.path at classifier\.pt.*dguide fetch --profile tiny") as caught:
        adm.run("extractor")
    assert "\n" not in str(caught.value)


def test_something_else_is_refused(adm: Study):
    torch.save({"weights": [1, 2, 3]}, adm.root / "classifier.pt")
    with pytest.raises(InputError, match=r"a state dict in .*classifier\.pt"):
        adm.run("extractor")
