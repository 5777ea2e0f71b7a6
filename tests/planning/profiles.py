"""Profiles to plan, changed in places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from discriminator_guidance.config import Config, parse_config

PROJECT = Path(__file__).resolve().parents[2]


def changed(profile: str, **changes: Any) -> Config:
    """A profile with whole values replaced, named `section__key`."""
    data = YAML(typ="safe", pure=True).load((PROJECT / "configs" / f"{profile}.yaml").read_text())
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            data[section][key] = value
        else:
            data[section] = value
    return parse_config(data, f"configs/{profile}.yaml")


def mini(**changes: Any) -> Config:
    """The mini profile, changed."""
    return changed("mini", **changes)


def released(**changes: Any) -> Config:
    """The profile of released networks at 32 x 32 x 3, none of whose files is here."""
    return changed("cifar10", **changes)
