"""Rows that wait for something a user decides to do: the authors' discriminator, and what studies choose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discriminator_guidance.report.published import AUTHORS, authors_remedy

STUDIES = {"tuned": "discriminator", "ensemble_tuned": "ensemble"}  # the study that chooses each variant


def absent_rows(profile: str, settings: Mapping[str, Any], evaluation: Path) -> dict[str, str]:
    """The variants that are not evaluated and need not be.

    Args:
        profile: its name.
        settings: the profile's configuration as plain nested dictionaries.
        evaluation: folder of <variant>.json.

    Returns:
        By variant, what is missing and what to do, in one line.
    """
    variants = settings["guided"]["variants"]
    remedies = {AUTHORS: authors_remedy(profile, settings)} if AUTHORS in variants else {}
    searches = {} if _has_families(settings) else STUDIES
    for name, study in searches.items():
        remedies[name] = (
            "not evaluated yet: `dvc repro`"
            if name in variants
            else f"not tuned yet: `dguide study {study} --profile {profile}`, `dguide study promote {study} --profile "
            f"{profile}`, `dvc repro`"
        )
    return {name: remedy for name, remedy in remedies.items() if not _evaluated(name, variants, evaluation)}


def _has_families(settings: Mapping[str, Any]) -> bool:
    """Whether members beyond those of the plain mean are trained: such a profile compares, and no study tunes it."""
    plain = settings["guided"]["variants"].get("ensemble_probability")
    rows = settings["discriminator"]["members"]
    trained = {name for name, row in rows.items() if "path" not in row and name not in STUDIES}
    return plain is not None and not trained <= set(plain["members"])


def _evaluated(name: str, variants: Mapping[str, Any], evaluation: Path) -> bool:
    return name in variants and (evaluation / f"{name}.json").is_file()
