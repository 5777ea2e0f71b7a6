"""Stages and library on a device that refuses tensors of the CPU, as a GPU does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from discriminator_guidance import DiscriminatorGuidance, sample, train_discriminator
from discriminator_guidance.core import runtime

from .remote import DEVICE
from .stages.conftest import LOOP, MINI, SMALL, only, prepare_study, run_stage, tiny_settings

STAGES = ("score", "extractor", "fid_network", "fake", "discriminator d0", "discriminator whole", "guided edm",
          "guided mean_prob", "evaluation", "report")  # fmt: skip


@pytest.fixture(autouse=True)
def no_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad())  # whose transfers bypass the device


def test_every_stage_computes_on_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "usable", lambda _: DEVICE)
    changes = {"guided.images": 8, "sampler.steps": 2, **only("edm", "mean_prob")}
    for word in STAGES[:3]:
        changes[f"{word}.training"] = MINI[word]["training"] | LOOP | {"iterations": 2}
    head = SMALL["members"]["d0"] | {"epochs": 1}
    changes["members"] = {"d0": head, "whole": head | {"kind": "whole"}}
    fitted = {"members": ["d0", "whole"], "rule": "mean_logit", "weights": "fitted"}
    changes["variants"]["mean_prob"] |= fitted
    tiny = prepare_study(tmp_path, tiny_settings(changes))
    for stage in STAGES:
        word, *row = stage.split()
        run_stage(word, tiny, *row)
    assert np.load(tiny[1].guided("mean_prob") / "samples.npz")["images"].std() > 0


def test_the_library_computes_on_the_device_that_it_is_given() -> None:
    trained = train_discriminator(torch.rand(40, 1, 8, 8) - 1, torch.rand(40, 1, 8, 8) - 0.5, steps=2, device=DEVICE)
    guidance = DiscriminatorGuidance([trained, trained], rule="shrunk_mean_logit")
    samples = sample(lambda x, sigma: x / 2, (4, 1, 8, 8), guidance=guidance, steps=3, boosting=True, device=DEVICE)
    assert samples.isfinite().all()
