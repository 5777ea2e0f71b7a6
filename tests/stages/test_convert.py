"""`dguide convert`: released formats become weights that load back."""

from __future__ import annotations

import torch

from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.checkpoints.edm_pickle import read_edm
from discriminator_guidance.checkpoints.weights import build_network, load_weights
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.stages.convert import write
from tests.checkpoints.lookalike import NCSNPP, checkpoint, dumps, network


def test_edm_becomes_weights_that_load_back(tmp_path):
    made = network(NCSNPP)
    (tmp_path / "edm.pkl").write_bytes(dumps(checkpoint(made, NCSNPP, tmp_path / "canary")))
    summary = write(read_edm(tmp_path / "edm.pkl"), tmp_path / "models/edm")
    assert not (tmp_path / "canary").exists()
    assert summary["elements"] == sum(tensor.numel() for tensor in made.state_dict().values())

    state, arguments = load_weights(tmp_path / "models/edm", "score")
    again = build_network(EDMPrecond, arguments, state, "score").eval()
    x, sigma, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 5.0]), torch.eye(10)[:2]
    assert torch.equal(again(x, sigma, labels), made(x, sigma, labels))


def test_adm_becomes_weights_that_load_back(tmp_path):
    made = build_head((8, 4, 4), 16, 2, 8, condition=True).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))  # layers that start at 0 would hide what is before them
    torch.save(made.state_dict(), tmp_path / "d.pt")
    write(read_adm(tmp_path / "d.pt", 8), tmp_path / "head")

    state, arguments = load_weights(tmp_path / "head", "discriminator")
    again = build_network(EncoderUNet, arguments, state, "discriminator").eval()
    x, t, labels = torch.randn(2, 8, 4, 4), torch.tensor([0.1, 0.7]), torch.tensor([0, 3])
    assert torch.equal(again(x, t, labels), made(x, t, labels))
