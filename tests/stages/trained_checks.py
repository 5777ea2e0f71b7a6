"""What holds for every stage that trains a network by iterations."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.precision import resolve_compute
from discriminator_guidance.stages import networks

from .conftest import Study
from .resumption import interrupt_and_resume

LOADERS = {
    "score": networks.load_denoiser,
    "extractor": networks.load_extractor,
    "fid_network": networks.load_fid_network,
}


class TrainedStage:
    """Checks of one stage; `word` names it."""

    word: str

    def test_writes_weights_and_a_falling_loss(self, study: Study):
        study.ensure(self.word)
        folder = study.layout.model(self.word)
        assert {path.name for path in folder.iterdir()} == {"model.safetensors", "model.json", "history.csv"}
        rows = (folder / "history.csv").read_text().splitlines()
        assert rows[0].startswith("iteration,loss")
        losses = [float(row.split(",")[1]) for row in rows[1:]]
        assert losses[-1] < losses[0]

    def test_weights_load_into_the_network_they_describe(self, study: Study):
        study.ensure(self.word)
        network = LOADERS[self.word](study.layout, resolve_compute("cpu", "float32"))
        saved = load_file(study.layout.model(self.word) / "model.safetensors")
        assert set(network.state_dict()) == set(saved)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_without_real_pictures_it_says_what_to_run(self, tmp_path):
        with pytest.raises(InputError, match=r"train\.npz.*stage real"):
            Study(tmp_path).run(self.word)

    def test_a_killed_training_resumes_to_the_same_bytes(self, study: Study, tmp_path, monkeypatch):
        study.ensure(self.word)
        again = interrupt_and_resume(study, tmp_path, monkeypatch, self.word)
        for name in ("model.safetensors", "history.csv"):
            ours, theirs = (s.layout.model(self.word) / name for s in (again, study))
            assert ours.read_bytes() == theirs.read_bytes()
