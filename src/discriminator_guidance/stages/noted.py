"""What must be said beside every number of a study, in the records that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discriminator_guidance.config import Config


def noted(config: Config) -> dict[str, str]:
    """The note on the real data, as an entry of a record or a column of a table.

    Args:
        config: the study's settings; section `real` has the note.

    Returns:
        For example {"note": "JPEG re-encoded"}; empty where there is nothing to say.
    """
    return {"note": config.real.note} if config.real.note else {}
