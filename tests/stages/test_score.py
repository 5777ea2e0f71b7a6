"""Stage `score`: training, and released EDM networks."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dguide.stages import score
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import load_arrays, write_npz
from tests.checkpoints import lookalike

from .conftest import Tiny, load, only, prepare_study, run_stage, tiny_settings, write_params
from .released import EDM, edm_file

PATH = "data/raw/edm.pkl"


def released(root: Path, cond: bool = False, **changes: object) -> tuple[Tiny, dict[str, torch.Tensor]]:
    """A study whose score network is a file."""
    prepare_study(root, tiny_settings({"cond": cond}))
    settings = tiny_settings({"cond": cond, "score": {"source": "edm", "path": PATH}})
    return write_params(root, settings), edm_file(root / PATH, **changes)


def test_in_a_conditional_study_the_classes_decide_the_image(tmp_path: Path):
    tiny = prepare_study(tmp_path, tiny_settings({"cond": True, "score.snapshots": {"early": 1}}))
    train = load_arrays(path := tiny[1].real / "train.npz", None, "")
    write_npz(path, **train | {"labels": np.minimum(train["labels"], 8)})  # class 9 is among held-out images alone
    summary, _ = run_stage("score", tiny)
    assert 0 < summary["holdout_loss"] < summary["holdout_loss_early"], "training lowers the loss on held-out images"
    network = load(tiny[1], "score")
    assert network.label_dim == 10
    x, sigma = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 1.0])
    one, other = (network(x, sigma, torch.eye(10)[[k, k]]) for k in (0, 1))
    assert not torch.allclose(one, other)


def test_other_networks_are_kept_beside_the_final_one_and_their_samples_are_drawn(tmp_path: Path):
    tuned = {"images": 20, "iterations": 5, "learning_rate": 0.01}
    rows = {"plain": tuned, "ddo": tuned | {"objective": "ddo"}}
    changes = {"score.finetuned": rows, "fake.networks": ["ddo"], "members.d0.fakes": "ddo"}
    changes |= only("edm", "d0")
    changes["variants"]["d0"] |= {"network": "ddo"}
    tiny = prepare_study(tmp_path, tiny_settings(changes))
    summary, _ = run_stage("score", tiny)
    assert {path.name for path in tiny[1].partial.iterdir()} == {"score"}, "which ends with the stage"
    assert {"holdout_loss", "holdout_loss_plain", "holdout_loss_ddo"} <= {*summary}
    files = [tiny[1].model("score") / name / "model.safetensors" for name in ("", *rows)]
    assert len({file.read_bytes() for file in files}) == 3
    run_stage("fake", tiny)
    samples = [np.load(tiny[1].fake(network) / "samples.npz")["images"] for network in (None, "ddo")]
    assert samples[0].shape == samples[1].shape
    assert not np.array_equal(*samples)


def test_fakes_of_ddo_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = {"ddo": {"images": 20, "iterations": 5, "learning_rate": 0.01, "objective": "ddo"}}
    tiny = prepare_study(tmp_path, tiny_settings({"score.finetuned": rows}))
    monkeypatch.setattr(score, "finetune_score", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_stage("score", tiny)
    monkeypatch.undo()
    monkeypatch.setattr(score, "sample", Mock(side_effect=AssertionError("they are drawn again")))
    run_stage("score", tiny)
    monkeypatch.setattr("dguide.settings.layout.source_hash", lambda folder: "of other stages")
    with pytest.raises(AssertionError, match="drawn again"):
        run_stage("score", tiny)


@pytest.mark.parametrize("classes", [0, 10])
def test_a_released_network_is_taken_as_it_is(tmp_path: Path, classes: int):
    tiny, weights = released(tmp_path, cond=bool(classes), label_dim=classes)
    summary, tracker = run_stage("score", tiny)
    folder = tiny[1].model("score")
    saved = load_file(folder / "model.safetensors")
    assert set(saved) == set(weights)
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights.items())
    assert (folder / "history.csv").read_text() == "iteration,loss\n"
    parameters = sum(tensor.numel() for name, tensor in weights.items() if not name.endswith("resample_filter"))
    assert summary == {"source": PATH, "parameters": parameters}
    assert tracker.curve == []
    assert not list(tmp_path.rglob("*.executed"))
    original = lookalike.network({**EDM, "label_dim": classes})
    original.load_state_dict(weights)
    x, sigma = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 1.0, 10.0])
    labels = torch.eye(10)[[0, 1, 2]] if classes else None
    assert torch.equal(load(tiny[1], "score")(x, sigma, labels), original(x, sigma, labels))


@pytest.mark.parametrize(
    ("cond", "changes", "words"),
    [
        (True, {"label_dim": 0}, r"edm\.pkl has label_dim 0 instead of 10; change score\.path.*cond"),
        (False, {"img_resolution": 16}, r"has img_resolution 16 instead of 8.*real\.image_size"),
    ],
)
def test_a_network_of_another_kind_is_refused(tmp_path: Path, cond: bool, changes: dict, words: str):
    tiny, _ = released(tmp_path, cond, **changes)
    before = (tiny[1].model("score") / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=words):
        run_stage("score", tiny)
    assert (tiny[1].model("score") / "model.safetensors").read_bytes() == before
