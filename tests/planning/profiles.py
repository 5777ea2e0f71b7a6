"""Profiles to plan, changed in places."""

from __future__ import annotations

from typing import Any

from discriminator_guidance.config import Config, parse_config
from tests.project_files import project_yaml


def changed(profile: str, **changes: Any) -> Config:
    """A profile with whole values replaced, named `section__key`."""
    data = project_yaml(f"configs/{profile}.yaml")
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
