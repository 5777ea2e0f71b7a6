"""Which settings a member has, and which members its training goes on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from discriminator_guidance.artifacts.files import fingerprint

if TYPE_CHECKING:
    from discriminator_guidance.config import Discriminator, TrainedMember


def trained_row(settings: Discriminator, member: str) -> TrainedMember:
    """The row of a member that is trained here.

    Args:
        settings: the section `discriminator`.
        member: its name.

    Returns:
        The row of Table 2, before the two factors.
    """
    return cast("TrainedMember", settings.members[member])


def of_member(settings: Discriminator, member: str, key: str) -> Any:
    """A setting of a trained member: its own where it differs from the section.

    Args:
        settings: the section `discriminator`.
        member: name of the row.
        key: of the section.

    Returns:
        The value.
    """
    own = getattr(trained_row(settings, member).differs, key)
    return getattr(settings, key) if own is None else own


def predecessor(settings: Discriminator, member: str) -> str | None:
    """The member that a member goes on from.

    A sequential one names it (`after`), so that several chains can stand in one table; without a name it is the trained
    one before it.

    Args:
        settings: the section `discriminator`.
        member: its name.

    Returns:
        A name, or None for the first, for those of another start and for released ones.
    """
    if hasattr(settings.members[member], "path") or of_member(settings, member, "init") != "sequential":
        return None
    if (named := trained_row(settings, member).differs.after) is not None:
        return named
    chain = [name for name, row in settings.members.items() if not hasattr(row, "path")]
    place = chain.index(member)
    return chain[place - 1] if place else None


def predecessors_hash(settings: Discriminator, member: str) -> str | None:
    """A hash of the rows of all members that a member goes on from, directly or not.

    DVC knows a member's own row alone, so that a change of one row leaves the others be; a sequential member depends
    on the rows before it, which it records for the report to compare.

    Args:
        settings: the section `discriminator`.
        member: its name.

    Returns:
        64 hexadecimal digits, or None where it goes on from nothing.
    """
    rows = []
    before = predecessor(settings, member)
    while before is not None:
        rows.append(trained_row(settings, before).model_dump(mode="json"))
        before = predecessor(settings, before)
    return fingerprint({"rows": rows}) if rows else None
