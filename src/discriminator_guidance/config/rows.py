"""Which rows of a profile the pipeline builds: the lists of params.yaml, and the files it is composed from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discriminator_guidance.config.loading import read_yaml
from discriminator_guidance.config.sections import Config
from discriminator_guidance.config.tuned import TUNED
from discriminator_guidance.errors import ConfigError

PARAMS = "params.yaml"  # composed by `dvc exp run -S profile=...`, or edited; what `dvc repro` reads


def rows_file(profile: str) -> str:
    """Where a profile's lists stand, whether it is the one in params.yaml or not.

    Args:
        profile: its name.

    Returns:
        Path, seen from the project folder.
    """
    return f"configs/rows/profile/{profile}.yaml"


def active_profile(root: Path) -> str | None:
    """The profile that `dvc repro` builds.

    Args:
        root: the project folder.

    Returns:
        Its name; None where params.yaml names none.

    Raises:
        ConfigError: params.yaml is not YAML, or its profile no word.
    """
    name = _read(root, PARAMS).get("profile")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"the name of a profile as profile in {PARAMS}", type(name).__name__, "write it as a word")
    return name


def listed_members(profile: str, root: Path) -> tuple[str, ...]:
    """The discriminators that the pipeline trains or reads for a profile.

    Args:
        profile: its name.
        root: the project folder.

    Returns:
        Names under `members` in params.yaml if that is of this profile, otherwise in its rows file; none where there is
        no such list.

    Raises:
        ConfigError: one of these files is not YAML, or the list is none of names.
    """
    shown = PARAMS if active_profile(root) == profile else rows_file(profile)
    return _names(_read(root, shown), "members", shown)


def refuse_rows_of_others(profile: str, config: Config, root: Path) -> None:
    """Stop where params.yaml lists rows that studies chose for another profile, before hours are spent on the others.

    Args:
        profile: the name of `config`.
        config: the profile.
        root: the project folder.

    Raises:
        ConfigError: a row of `tuned_members` or `tuned_ensembles` that the profile in params.yaml does not have, or no
            lists of names.
    """
    if active_profile(root) != profile:
        return
    params = _read(root, PARAMS)
    listed = [name for key in ("tuned_members", "tuned_ensembles") for name in _names(params, key, PARAMS)]
    if unknown := [name for name in listed if name not in config.guided.variants]:
        raise ConfigError(
            f"rows of configs/{profile}{TUNED}.yaml in {PARAMS}",
            f"{', '.join(unknown)}, chosen for another profile",
            f"`dvc exp run -S profile={profile}` writes its own lists; or empty tuned_members and tuned_ensembles",
        )


def _names(params: Mapping[str, Any], key: str, shown: str) -> tuple[str, ...]:
    names = params.get(key)
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        got = type(names).__name__ if not isinstance(names, list) else "a list of other things"
        raise ConfigError(f"a list of names as {key} in {shown}", got, f"write `{key}: []` or the names of rows")
    return tuple(names)


def _read(root: Path, shown: str) -> Mapping[str, Any]:
    data = read_yaml(root / shown, shown) if (root / shown).is_file() else None
    return data if isinstance(data, Mapping) else {}
