"""A tiny study whose pictures and networks are random: what tests of settings need, in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from discriminator_guidance.artifacts.files import write_npz
from discriminator_guidance.artifacts.weights import save_weights
from discriminator_guidance.networks.adm import build_extractor, build_head
from discriminator_guidance.networks.edm import EDMPrecond

from .conftest import Study, spare_members

IMAGES = 40  # of each kind
FEATURES = (8, 4, 4)  # of the extractor
HEAD = {"model_channels": 8, "num_res_blocks": 1, "num_head_channels": 8}


def untrained_study(root: Path, cond: bool = False) -> Study:
    """Real pictures, fakes with classes, a score network and an extractor; two members of three epochs."""
    study = Study(root)
    settings = study.settings
    settings["cond"] = cond
    settings["sampler"]["steps"] = 4
    settings["discriminator"] |= {"batch_size": 16, "checkpoint_every": 2}
    for row in settings["discriminator"]["members"].values():
        row["epochs"] = 3
    spare_members(settings)
    rng = np.random.default_rng(0)
    for path, low in [(study.layout.real / "train.npz", 100), (study.layout.fake / "samples.npz", 0)]:
        images = rng.integers(low, low + 150, (IMAGES, 8, 8, 1)).astype(np.uint8)
        write_npz(path, images=images, labels=rng.integers(10, size=IMAGES))
    extractor = build_extractor(8, 1, 10, 8, [1, 1], 1, [4], 8)
    save_network(study, "extractor", extractor, extractor.arguments)
    save_score(study, 10 if cond else 0)
    return study


def save_score(study: Study, classes: int) -> None:
    """Put a score network with so many classes in its place."""
    arguments = {"img_resolution": 8, "img_channels": 1, "label_dim": classes, "sigma_data": 0.5}
    arguments |= study.settings["score"]["network"]
    save_network(study, "score", EDMPrecond(**arguments), arguments)


def save_head(study: Study, member: str, condition: bool, shift: int = 0) -> None:
    """Put a head in a member's place; `shift` gives each class what the class so many before it had."""
    head = build_head(FEATURES, **HEAD, condition=condition)
    save_network(study, f"discriminator/{member}", head, head.arguments)
    if head.label_emb is not None:
        head.label_emb.weight.data = head.label_emb.weight.data.roll(shift, 0)
        save_weights(study.layout.discriminator(member), head.state_dict(), head.arguments)


def save_network(study: Study, place: str, network: nn.Module, arguments: dict) -> None:
    """Write a network whose every parameter is random, those that start at 0 included."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    save_weights(study.layout.model(place), network.state_dict(), arguments)


def weights(study: Study, member: str) -> dict[str, Tensor]:
    """What a member left."""
    return load_file(study.layout.discriminator(member) / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are the same numbers under the same names."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
