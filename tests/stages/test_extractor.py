"""Stage `extractor`."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from discriminator_guidance.errors import InputError

from .conftest import Study
from .resumption import interrupt_and_resume


def test_writes_weights_and_a_falling_loss(study: Study):
    study.ensure("extractor")
    folder = study.layout.model("extractor")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "model.json", "history.csv"}
    rows = (folder / "history.csv").read_text().splitlines()
    assert rows[0].startswith("iteration,loss")
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert losses[-1] < losses[0]


def test_weights_load_into_the_network_they_describe(study: Study):
    from discriminator_guidance.networks.precision import resolve_compute
    from discriminator_guidance.stages import networks

    study.ensure("extractor")
    load = {
        "score": networks.load_denoiser,
        "extractor": networks.load_extractor,
        "fid_network": networks.load_fid_network,
    }
    network = load["extractor"](study.layout, resolve_compute("cpu", "float32"))
    saved = load_file(study.layout.model("extractor") / "model.safetensors")
    assert set(network.state_dict()) == set(saved)
    assert not network.training


def test_without_real_pictures_it_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"train\.npz.*stage real"):
        Study(tmp_path).run("extractor")


def test_a_killed_training_resumes_to_the_same_bytes(study: Study, tmp_path, monkeypatch):
    study.ensure("extractor")
    again = interrupt_and_resume(study, tmp_path, monkeypatch, "extractor")
    for name in ("model.safetensors", "history.csv"):
        assert (again.layout.model("extractor") / name).read_bytes() == (
            study.layout.model("extractor") / name
        ).read_bytes()
