"""Settings files with a change."""

import copy
from functools import reduce
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dguide.settings import Config
from dguide.settings.config import check

PROJECT = Path(__file__).resolve().parents[2]
MINI: dict[str, Any] = YAML(typ="safe", pure=True).load((PROJECT / "configs/mini.yaml").read_text())


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The settings of mini with other values for dotted keys."""
    data = copy.deepcopy(MINI)
    for key, value in changes.items():
        *sections, last = key.split(".")
        reduce(dict.__getitem__, sections, data)[last] = value
    return data


def read(changes: dict[str, Any]) -> Config:
    """Such settings, checked."""
    return check([(changed(changes), Path("params.yaml"))])
