"""What a command writes and reads, so that no two commands meet in one result."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from discriminator_guidance.artifacts.claims import claimed
from discriminator_guidance.stages.chain import predecessor
from discriminator_guidance.stages.layout import Layout

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

NETWORKS = ("score", "extractor", "fid_network")


def stage_claim(config: Config, layout: Layout, word: str, choice: Mapping[str, str]) -> AbstractContextManager[None]:
    """Keep others from what a stage writes, and writers from what it reads.

    Args:
        config: of the profile.
        layout: where files are.
        word: the stage.
        choice: its member or variant.

    Returns:
        Holds the claim while it is entered; of several ranks the first holds it for all.

    Raises:
        BusyError: on entering; another process is at one of these results.
    """
    name = "-".join([word, *choice.values()])
    return claimed(_folder(layout), f"dguide {name}", [name], reads_of(config, word, *choice.values()))


def study_claim(config: Config, layout: Layout, part: str) -> AbstractContextManager[None]:
    """Keep writers from what a study reads; any number of studies may run beside each other.

    Args:
        config: of the profile.
        layout: where files are.
        part: `discriminator` or `ensemble`.

    Returns:
        Holds the claim while it is entered.

    Raises:
        BusyError: on entering; another process is writing one of these results.
    """
    heads = _all_heads(config) if part == "ensemble" else []
    return claimed(_folder(layout), f"dguide study {part}", [], ["real", "fake", *NETWORKS, *heads])


def factorial_claim(config: Config, layout: Layout) -> AbstractContextManager[None]:
    """Keep others from the factorial, and writers from what it reads.

    Args:
        config: of the profile.
        layout: where files are.

    Returns:
        Holds the claim while it is entered.

    Raises:
        BusyError: on entering; another process is at one of these results.
    """
    return claimed(_folder(layout), "dguide factorial", ["factorial"], ["real", "fake", *NETWORKS])


def reads_of(config: Config, word: str, name: str = "") -> list[str]:
    """The stages whose results a stage reads.

    Args:
        config: of the profile.
        word: the stage.
        name: its member or variant.

    Returns:
        Each as its word, or word and member or variant.
    """
    if word in NETWORKS:
        return ["real"]
    if word == "fake":
        return ["score"]
    if word == "discriminator":
        before = predecessor(config.discriminator, name)
        return ["real", "fake", "extractor", *([] if before is None else [_head(before)])]
    variants = config.guided.variants
    heads = [_head(member) for member in variants[name].members] if name else []
    if word == "guided":
        return ["score", *(["extractor"] if heads else []), *heads]
    if word == "evaluation":
        return ["real", "fid_network", "guided-edm", f"guided-{name}", *heads]
    if word == "report":
        made = [f"{stage}-{variant}" for stage in ("guided", "evaluation") for variant in variants]
        return ["real", *made, *_all_heads(config)]
    return []


def _folder(layout: Layout) -> Path:
    return layout.partial / "claims"


def _head(member: str) -> str:
    return f"discriminator-{member}"


def _all_heads(config: Config) -> list[str]:
    return [_head(member) for member in config.discriminator.members]
