"""Profiles to plan: the mini profile, changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from discriminator_guidance.config import Config, parse_config

PROJECT = Path(__file__).resolve().parents[2]
MINI = YAML(typ="safe", pure=True).load((PROJECT / "configs" / "mini.yaml").read_text())


def mini(**changes: Any) -> Config:
    """The mini profile with whole values replaced, named `section__key`."""
    data = copy.deepcopy(MINI)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            data[section][key] = value
        else:
            data[section] = value
    return parse_config(data, "configs/changed.yaml")


def released(cond: bool = False) -> Config:
    """A profile of released networks at 32 x 32 x 3, none of whose files is here."""
    head = {"model_channels": 128, "num_res_blocks": 2, "num_head_channels": 64, "dropout": 0.0}
    variants = {name: MINI["guided"]["variants"][name] for name in ("edm", "d0", "ensemble_probability")}
    variants["authors"] = variants["d0"] | {"members": ["authors"]}
    return mini(
        cond=cond,
        real={
            "source": "cifar10",
            "path": "data/downloads/cifar-10-python.tar.gz",
            "holdout_path": None,
            "image_size": 32,
            "holdout_fraction": 0.0,
            "seed": 0,
            "note": None,
        },
        score={"source": "edm", "path": "models/downloads/edm.pkl"},
        extractor={"source": "adm", "path": "models/downloads/classifier.pt"},
        fid_network={
            "source": "inception",
            "name": "Inception",
            "path": "models/downloads/inception.pth",
            "sha256": None,
        },
        sampler__steps=35,
        fake__images=50_000,
        guided__images=50_000,
        guided__seed_start=1_000_000,
        guided__variants=variants,
        discriminator__network=head,
        discriminator__members={**MINI["discriminator"]["members"], "authors": {"path": "models/downloads/d.pt"}},
    )
