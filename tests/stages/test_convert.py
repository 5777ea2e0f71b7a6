"""`dguide convert`: released formats become weights that load back."""

from __future__ import annotations

from pathlib import Path

import torch

from dguide import cli
from discriminator_guidance.core.files import load_network
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
from tests.checkpoints.lookalike import NCSNPP, checkpoint, dumps, network

from .released import head_file


def test_edm_becomes_weights_that_load_back(tmp_path: Path) -> None:
    made = network(NCSNPP)
    (tmp_path / "edm.pkl").write_bytes(dumps(checkpoint(made, NCSNPP, tmp_path / "canary")))
    cli.convert("edm", tmp_path / "edm.pkl", tmp_path / "models/edm")
    assert not (tmp_path / "canary").exists()
    again = load_network(EDMPrecond, tmp_path / "models/edm", "score").eval()
    x, sigma, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 5.0]), torch.eye(10)[:2]
    assert torch.equal(again(x, sigma, labels), made(x, sigma, labels))


def test_adm_becomes_weights_that_load_back(tmp_path: Path) -> None:
    made = head_file(tmp_path / "d.pt", (8, 4, 4), condition=True)
    cli.convert("adm", tmp_path / "d.pt", tmp_path / "head")
    again = load_network(EncoderUNet, tmp_path / "head", "discriminator").eval()
    x, t, labels = torch.randn(2, 8, 4, 4), torch.tensor([0.1, 0.7]), torch.tensor([0, 3])
    assert torch.equal(again(x, t, labels), made(x, t, labels))
