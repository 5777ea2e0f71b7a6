"""Stage `score`."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.errors import ConfigError, InputError, UserError
from tests.artifacts import lookalike

from .conftest import Study
from .released import EDM, edm_file
from .trained_checks import TrainedStage


class TestScore(TrainedStage):
    word = "score"

    def test_the_saved_weights_are_the_average(self, study: Study, tmp_path):
        """Without averaging (a decay near 0) the same training ends in other weights."""
        study.ensure("score")
        other = Study(tmp_path)
        other.settings["score"]["ema_decay"] = 1e-6
        other.run("real")
        other.run("score")
        weights = [s.layout.model("score") / "model.safetensors" for s in (study, other)]
        assert weights[0].read_bytes() != weights[1].read_bytes()
        curves = [s.layout.model("score") / "history.csv" for s in (study, other)]
        assert curves[0].read_bytes() == curves[1].read_bytes()

    def test_in_a_conditional_study_the_classes_decide_the_picture(self, tmp_path):
        study = Study(tmp_path)
        study.settings["cond"] = True
        study.run("real")
        study.run("score")
        network = self.load(study)
        assert network.label_dim == 10
        x, sigma = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 1.0])
        one, other = (network(x, sigma, torch.eye(10)[[k, k]]) for k in (0, 1))
        assert not torch.allclose(one, other)

    def load(self, study: Study):
        from discriminator_guidance.networks.precision import resolve_compute
        from discriminator_guidance.stages.networks import load_denoiser

        return load_denoiser(study.layout, resolve_compute("cpu", "float32"))

    def test_the_size_of_a_pass_is_told_and_halves_with_the_memory(self, study: Study, tmp_path, monkeypatch):
        from discriminator_guidance.training import loop

        study.ensure("score")
        assert study.results["score", ""].summary["batch_size"] == 16
        original = loop.accumulate_gradients

        def exhausted(loss_of, batch, size, weight):
            if size > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(loss_of, batch, size, weight)

        monkeypatch.setattr(loop, "accumulate_gradients", exhausted)
        other = Study(tmp_path)
        other.run("real")
        assert other.run("score").summary["batch_size"] == 8
        assert read_json(other.layout.model("score") / "model.json", "score")["record"] == {"halved_batches": [8]}
        assert "record" not in read_json(study.layout.model("score") / "model.json", "score")
        self.load(other)
        assert len(other.notices) == 1
        assert "8 pictures" in other.notices[0]
        ours, theirs = (load_file(s.layout.model("score") / "model.safetensors") for s in (other, study))
        for name, tensor in theirs.items():
            assert torch.allclose(ours[name], tensor, rtol=1e-2, atol=1e-3), name


def edm_study(root, cond: bool = False, **changes: object) -> tuple[Study, dict[str, torch.Tensor]]:
    study = Study(root)
    study.settings["cond"] = cond
    study.settings["score"] = {"source": "edm", "path": "edm.pkl"}
    study.run("real")
    return study, edm_file(root / "edm.pkl", **changes)


@pytest.mark.parametrize("classes", [0, 10])
def test_a_released_network_is_taken_as_it_is(tmp_path, classes):
    study, weights = edm_study(tmp_path, cond=bool(classes), label_dim=classes)
    result = study.run("score")
    folder = study.layout.model("score")
    saved = load_file(folder / "model.safetensors")
    assert set(saved) == set(weights)
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights.items())
    assert read_json(folder / "model.json", "score")["label_dim"] == classes
    assert (folder / "history.csv").read_text() == "iteration,loss\n"
    assert result.summary["source"] == "edm.pkl"
    parameters = {name: tensor for name, tensor in weights.items() if not name.endswith("resample_filter")}
    assert result.summary["parameters"] == sum(tensor.numel() for tensor in parameters.values())
    assert not (tmp_path / "edm.executed").exists()


def test_a_released_network_denoises_as_the_original(tmp_path):
    study, weights = edm_study(tmp_path)
    study.run("score")
    original = lookalike.network(EDM)
    original.load_state_dict(weights)
    x, sigma = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 1.0, 10.0])
    assert torch.equal(TestScore().load(study)(x, sigma), original(x, sigma))


@pytest.mark.parametrize(
    ("cond", "changes", "words"),
    [
        (
            True,
            {"label_dim": 0},
            "a score network with 10 classes in edm.pkl.*got one without classes.*score.path or cond",
        ),
        (False, {"label_dim": 10}, "a score network without classes in edm.pkl.*got one with 10 classes"),
        (True, {"label_dim": 7}, "with 10 classes in edm.pkl.*got one with 7 classes"),
        (False, {"img_resolution": 16}, "8 pixels and 1 channels in edm.pkl; got 16 pixels.*real.image_size"),
        (False, {"img_channels": 3}, "8 pixels and 1 channels in edm.pkl; got 8 pixels and 3 channels"),
    ],
)
def test_a_network_of_another_kind_is_refused(tmp_path, cond, changes, words):
    study, _ = edm_study(tmp_path, cond, **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        study.run("score")
    assert "\n" not in str(caught.value)
    assert not study.layout.model("score").exists()


def test_a_missing_file_names_the_command_that_gets_it(tmp_path):
    study, _ = edm_study(tmp_path)
    (tmp_path / "edm.pkl").unlink()
    with pytest.raises(
        InputError, match=r"score\.path at edm\.pkl.*no such file.*dguide fetch --profile tiny"
    ) as caught:
        study.run("score")
    assert "\n" not in str(caught.value)


def test_a_hostile_file_is_refused_and_leaves_nothing(tmp_path):
    study, _ = edm_study(tmp_path)
    canary = tmp_path / "canary"
    hostile = {"ema": lookalike.Call("os.system", (f"touch {canary}",))}
    (tmp_path / "edm.pkl").write_bytes(lookalike.dumps(hostile))
    with pytest.raises(UserError, match=r"os\.system"):
        study.run("score")
    assert not canary.exists()
    assert not study.layout.model("score").exists()
