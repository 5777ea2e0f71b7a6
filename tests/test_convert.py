"""`dguide convert`: released formats become weights that load back; a refusal is one line and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from discriminator_guidance.artifacts.weights import load_weights
from discriminator_guidance.errors import InputError, OutputError
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.stages.convert import read_adm, read_edm, write
from tests.artifacts.lookalike import NCSNPP, TINY, Call, checkpoint, dumps, network
from tests.networks.conftest import shuffled
from tests.test_cli import dguide, refused


def test_edm_becomes_weights_that_load_back(tmp_path):
    made = network(NCSNPP)
    (tmp_path / "edm.pkl").write_bytes(dumps(checkpoint(made, NCSNPP, tmp_path / "canary")))
    done = dguide(tmp_path, "convert", "edm", "edm.pkl", "models/edm")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "canary").exists()
    assert sorted(p.name for p in (tmp_path / "models/edm").iterdir()) == ["model.json", "model.safetensors"]

    state, arguments = load_weights(tmp_path / "models/edm", "score")
    again = EDMPrecond(**arguments).eval()
    again.load_state_dict(state)
    x, sigma, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 5.0]), torch.eye(10)[:2]
    assert torch.equal(again(x, sigma, labels), made(x, sigma, labels))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_adm_becomes_weights_that_load_back(zipped, tmp_path):
    made = shuffled(build_head((8, 4, 4), 16, 2, 8, condition=True)).eval()
    torch.save(made.state_dict(), tmp_path / "d.pt", _use_new_zipfile_serialization=zipped)
    done = dguide(tmp_path, "convert", "adm", "d.pt", "head", "--head-channels", "8")
    assert done.returncode == 0, done.stderr

    state, arguments = load_weights(tmp_path / "head", "discriminator")
    again = EncoderUNet(**arguments).eval()
    again.load_state_dict(state)
    x, t, labels = torch.randn(2, 8, 4, 4), torch.tensor([0.1, 0.7]), torch.tensor([0, 3])
    assert torch.equal(again(x, t, labels), made(x, t, labels))


def test_a_refused_edm_file_leaves_nothing(tmp_path):
    data = checkpoint(network(TINY), TINY, tmp_path / "canary")
    data["extra"] = [Call("os.system", (f"touch {tmp_path / 'canary'}",))]
    (tmp_path / "edm.pkl").write_bytes(dumps(data))
    refused(dguide(tmp_path, "convert", "edm", "edm.pkl", "models/edm"), "edm.pkl", "os.system")
    assert [p.name for p in tmp_path.iterdir()] == ["edm.pkl"]


def test_a_refused_adm_file_leaves_nothing(tmp_path):
    head = build_head((8, 4, 4), 8, 2, 8)
    torch.save(head.state_dict(), tmp_path / "d.pt")
    refused(dguide(tmp_path, "convert", "adm", "d.pt", "head"), "d.pt", "num_head_channels that divides 8")
    refused(dguide(tmp_path, "convert", "adm", "none.pt", "head"), "none.pt", "No such file")
    assert [p.name for p in tmp_path.iterdir()] == ["d.pt"]


def test_tensors_that_do_not_fit_the_arguments_are_named(tmp_path):
    made = network(TINY)
    path = tmp_path / "edm.pkl"
    path.write_bytes(dumps(checkpoint(made, {**TINY, "augment_dim": 0, "label_dim": 3}, tmp_path / "canary")))
    with pytest.raises(InputError) as caught:
        read_edm(path)
    assert "2 missing (model.map_label.weight, model.map_label.bias)" in str(caught.value)
    assert "1 unexpected (model.map_augment.weight)" in str(caught.value)

    state = build_head((8, 4, 4), 8, 2, 8).state_dict()
    state["middle_block.0.skip_connection.weight"] = torch.ones(1)
    del state["time_embed.2.bias"]
    torch.save(state, tmp_path / "d.pt")
    with pytest.raises(InputError) as caught:
        read_adm(tmp_path / "d.pt", num_head_channels=8)
    assert "1 missing (time_embed.2.bias), 1 unexpected (middle_block.0.skip_connection.weight)" in str(caught.value)


def test_arguments_no_network_has_are_refused(tmp_path):
    path = tmp_path / "edm.pkl"
    path.write_bytes(dumps(checkpoint(network(NCSNPP), {**NCSNPP, "resample_filter": [1, 2]}, tmp_path / "canary")))
    with pytest.raises(InputError, match="symmetric taps"):
        read_edm(path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(InputError, match="a folder that can be written"):
        write(({"w": torch.ones(1)}, {}), taken)
    assert taken.read_text() == "a file"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OutputError("to write", "No space left on device", "make room")]
)
def test_half_written_weights_are_removed(tmp_path, monkeypatch, error):
    def full_disk(path: Path, arguments: object) -> None:
        raise error

    monkeypatch.setattr("discriminator_guidance.artifacts.weights.write_json", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write(({"w": torch.ones(1)}, {}), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
