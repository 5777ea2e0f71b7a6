"""What studies chose for a profile: a file beside it that adds members and variants of fixed names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from discriminator_guidance.config.sections import Member, Name, Section, Seed, Variant
from discriminator_guidance.errors import ConfigError

TUNED = ".tuned"  # configs/<profile>.tuned.yaml, which is no profile
TUNED_MEMBER = "tuned"
TUNED_ENSEMBLE = "ensemble_tuned"
Part = Literal["discriminator", "ensemble"]


class Provenance(Section):
    """Which trial of which study a part came from."""

    study: Name
    trial: Annotated[int, Field(ge=0)]
    seed: Seed
    parameters: dict[str, float | int | bool | str | None]
    values: dict[str, float]
    commit: str


class TunedDiscriminator(Section):
    """Members to add to `discriminator.members`."""

    members: dict[Literal["tuned"], Member]


class TunedGuided(Section):
    """Variants to add to `guided.variants`."""

    variants: dict[Literal["tuned", "ensemble_tuned"], Variant]


class Tuned(Section):
    """A whole `configs/<profile>.tuned.yaml`."""

    provenance: dict[Part, Provenance]
    discriminator: TunedDiscriminator
    guided: TunedGuided


def with_tuned(data: Any, tuned: Tuned, shown: str) -> Any:
    """Add what studies chose to a profile.

    Args:
        data: the profile as its file holds it; left as it is, and not yet checked.
        tuned: what was chosen.
        shown: the profile's file, for messages.

    Returns:
        The profile with the members and variants of both.

    Raises:
        ConfigError: the profile has a member or variant of such a name itself.
    """
    merged = data
    for section, table, added in (
        ("discriminator", "members", tuned.discriminator.members),
        ("guided", "variants", tuned.guided.variants),
    ):
        own = merged.get(section) if isinstance(merged, Mapping) else None
        if not isinstance(own, Mapping) or not isinstance(rows := own.get(table), Mapping):
            return data  # no profile at all: the check of the whole says what is wrong
        if taken := sorted(set(rows) & set(added)):
            raise ConfigError(
                f"no {section}.{table}.{taken[0]} in {shown}, the name of what a study chose",
                "one",
                "give it another name",
            )
        plain = {name: row.model_dump(mode="json", exclude_none=True) for name, row in added.items()}
        merged = {**merged, section: {**own, table: {**rows, **plain}}}
    return merged
