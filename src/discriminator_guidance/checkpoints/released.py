"""Networks from the checkpoints that EDM, ADM and DG released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from discriminator_guidance.checkpoints.adm_checkpoint import derive_arguments, read_state_dict
from discriminator_guidance.checkpoints.edm_pickle import read_edm_pickle
from discriminator_guidance.checkpoints.weights import fit_network
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond

REMEDY = "use the file as its authors published it"


def read_edm(path: Path) -> tuple[EDMPrecond, dict[str, Any]]:
    """The network of an EDM checkpoint (.pkl), and its arguments."""
    state, arguments = read_edm_pickle(path)
    return fit_network(EDMPrecond, arguments, state, f"an EDM checkpoint in {path}", REMEDY), arguments


def read_adm(path: Path, head_channels: int = 64) -> tuple[EncoderUNet, dict[str, Any]]:
    """A classifier or discriminator (.pt), and the arguments that fit its tensors."""
    what, state = f"a state dict in {path}", read_state_dict(path)
    arguments = derive_arguments(state, what, head_channels)
    return fit_network(EncoderUNet, arguments, state, what, REMEDY), arguments
