"""Settings files with a change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dguide.settings import Config
from dguide.settings.config import check

PROJECT = Path(__file__).resolve().parents[2]
MINI: dict[str, Any] = YAML(typ="safe", pure=True).load((PROJECT / "configs/mini.yaml").read_text())


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The settings of mini with other values for dotted keys; `...` removes a key."""
    data = copy.deepcopy(MINI)
    for key, value in changes.items():
        *sections, last = key.split(".")
        inner = data
        for section in sections:
            inner = inner[section]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    return data


def read(changes: dict[str, Any]) -> Config:
    """Such settings, checked."""
    return read_settings(changed(changes))


def read_settings(values: dict[str, Any]) -> Config:
    """Checked settings."""
    return check([(values, Path("params.yaml"))])
