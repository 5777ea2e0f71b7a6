"""Which members learn from the same batches, and so can be trained in one pass over the frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discriminator_guidance.diffusion.seeds import generator
from discriminator_guidance.stages.chain import of_member, predecessor, trained_row

if TYPE_CHECKING:
    from discriminator_guidance.config import Discriminator


def shares(settings: Discriminator, member: str) -> bool:
    """Whether a member learns from batches that are not its own.

    Args:
        settings: the section `discriminator`.
        member: its name.

    Returns:
        False where `shared_features` is off, for a bagged member, whose pictures are its own, for one that goes on
        from another, which has to wait for its end, and for a released one.
    """
    if not settings.shared_features or hasattr(settings.members[member], "path"):
        return False
    return of_member(settings, member, "bagging") is None and predecessor(settings, member) is None


def companions(settings: Discriminator, member: str) -> tuple[str, ...]:
    """The other members that learn from a member's batches.

    Args:
        settings: the section `discriminator`.
        member: its name.

    Returns:
        Names in the order of the table, none if it does not share.
    """
    if not shares(settings, member):
        return ()
    others = [name for name in settings.members if name != member and shares(settings, name)]
    return tuple(name for name in others if _kind(settings, name) == _kind(settings, member))


def draws_seed(settings: Discriminator, member: str) -> int:
    """The seed of a member's batches: order of the pictures, VP times, noise and flips.

    Args:
        settings: the section `discriminator`.
        member: of the trained ones.

    Returns:
        The member's own seed, or, of one that shares, a number that depends on the section and on what all who share
        have in common; never on who they are, so that a member comes out the same with others and without.
    """
    if not shares(settings, member):
        return trained_row(settings, member).seed
    purpose = f"shared batches {_kind(settings, member)}"
    return int(generator(settings.split.seed, purpose, 0, 0).integers(2**63))


def _kind(settings: Discriminator, member: str) -> tuple[float, bool, bool]:
    """What of a member, beside the section, decides its batches."""
    sampled, reshuffled = (of_member(settings, member, key) for key in ("importance_sampling", "reshuffle"))
    return trained_row(settings, member).t_min, sampled, reshuffled
