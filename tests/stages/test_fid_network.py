"""Stage `fid_network`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.inception import InceptionFeatures
from discriminator_guidance.networks.precision import resolve_compute
from discriminator_guidance.stages.networks import load_fid_network
from tests.inception_weights import random_inception

from .conftest import Study
from .trained_checks import TrainedStage


class TestFidNetwork(TrainedStage):
    word = "fid_network"

    def test_features_have_the_configured_width(self, study: Study):
        study.ensure("fid_network")
        network = load_fid_network(study.layout, resolve_compute("cpu", "float32"))
        assert network.features(torch.zeros(2, 1, 8, 8)).shape == (2, study.config.fid_network.features)


def with_inception(root: Path, digest: str | None) -> Study:
    study = Study(root)
    study.settings["fid_network"] = {
        "source": "inception",
        "name": "inception",
        "path": "weights.pth",
        "sha256": digest,
    }
    return study


def test_inception_is_loaded_from_its_file_by_checksum(tmp_path: Path):
    """Full-size random weights, in the layout of the released file."""
    state = random_inception()
    torch.save(state, tmp_path / "weights.pth")
    study = with_inception(tmp_path, sha256(tmp_path / "weights.pth"))
    study.run("fid_network")
    network = load_fid_network(study.layout, resolve_compute("cpu", "float32"))
    picture = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    torch.testing.assert_close(network.features(picture), InceptionFeatures(state).features(picture))
    assert network.features(picture).shape == (1, 2048)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize(("digest", "told"), [("0" * 64, "sha256 0000"), (None, "weights.pth")])
def test_a_hostile_file_is_refused_and_not_executed(tmp_path: Path, digest: str | None, told: str):
    torch.save({"fc.weight": Hostile(tmp_path / "executed")}, tmp_path / "weights.pth")
    study = with_inception(tmp_path, digest)
    with pytest.raises(InputError, match=told):
        study.run("fid_network")
    assert not (tmp_path / "executed").exists()
    assert not study.layout.model("fid_network").exists()


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    study = with_inception(tmp_path, None)
    with pytest.raises(InputError, match="weights of torch-fidelity's Inception"):
        study.run("fid_network")
    assert not study.layout.model("fid_network").exists()
