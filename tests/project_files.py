"""YAML files of the project, each read once in a process: hundreds of tests ask for them."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from discriminator_guidance.config import Config, load_config

PROJECT = Path(__file__).resolve().parents[1]


def project_yaml(name: str) -> Any:
    """What a file holds, to be changed at will.

    Args:
        name: its path in the project.
    """
    return copy.deepcopy(_read(name))


@cache
def project_config(profile: str) -> Config:
    """A profile as it is committed.

    Args:
        profile: its name.
    """
    return load_config(profile, PROJECT)


@cache
def _read(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((PROJECT / name).read_text())
