"""Released checkpoints of EDM and ADM as tensors and the arguments of the network that they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from discriminator_guidance.checkpoints.adm_checkpoint import derive_arguments, read_state_dict
from discriminator_guidance.checkpoints.edm_pickle import read_edm_pickle
from discriminator_guidance.checkpoints.weights import fit_network
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond

Weights = tuple[dict[str, Tensor], dict[str, Any]]
REMEDY = "use the file as its authors published it"


def read_edm(path: Path) -> Weights:
    """The tensors of an EDM checkpoint (.pkl), and the EDMPrecond arguments that they fit."""
    state, arguments = read_edm_pickle(path)
    fit_network(EDMPrecond, arguments, state, f"an EDM checkpoint in {path}", REMEDY)
    return state, arguments


def read_adm(path: Path, head_channels: int = 64) -> Weights:
    """The tensors of a classifier or discriminator (.pt), and the EncoderUNet arguments that they fit."""
    what = f"a state dict in {path}"
    state = read_state_dict(path)
    arguments = derive_arguments(state, what, head_channels)
    fit_network(EncoderUNet, arguments, state, what, REMEDY)
    return state, arguments
