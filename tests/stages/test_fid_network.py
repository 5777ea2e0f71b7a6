"""Stage `fid_network`."""

from __future__ import annotations

from .conftest import Study
from .trained_checks import TrainedStage


class TestFidNetwork(TrainedStage):
    word = "fid_network"

    def test_features_have_the_configured_width(self, study: Study):
        import torch

        from discriminator_guidance.networks.precision import resolve_compute
        from discriminator_guidance.stages.networks import load_fid_network

        study.ensure("fid_network")
        network = load_fid_network(study.layout, resolve_compute("cpu", "float32"))
        assert network.features(torch.zeros(2, 1, 8, 8)).shape == (2, study.config.fid_network.features)
