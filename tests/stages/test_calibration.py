"""What a plan times, it times where the stages compute."""

from __future__ import annotations

import torch

from discriminator_guidance.planning.blueprints import Blueprints
from discriminator_guidance.stages import calibration, plan

from .conftest import Study


def test_distances_are_timed_on_the_device_that_computes_them(tmp_path, monkeypatch):
    study, gpu, asked = Study(tmp_path), torch.device("cuda", 1), set()
    pictures, _ = plan.study_pictures(study.config, study.context)
    original = calibration.precision_recall

    def on_a_cpu(generated, real, neighborhood, device):
        asked.add(device)
        return original(generated, real, neighborhood)

    monkeypatch.setattr(calibration, "precision_recall", on_a_cpu)
    seconds, _ = calibration._metrics(Blueprints(study.config, pictures), 0.01, gpu)
    assert asked == {gpu}
    assert seconds["manifold"] > 0
