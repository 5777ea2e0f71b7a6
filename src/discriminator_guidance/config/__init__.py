"""The only reader of configuration: `configs/<profile>.yaml` as frozen, bounded, fully explicit types."""

from discriminator_guidance.config.loading import load_config, load_tuned, parse_config
from discriminator_guidance.config.lockfile import LockedFile, LockedStage, locked_stages
from discriminator_guidance.config.promotion import promote
from discriminator_guidance.config.rows import active_profile, listed_members, refuse_rows_of_others, rows_file
from discriminator_guidance.config.sections import (
    Config,
    Discriminator,
    DiscriminatorStudy,
    Download,
    Fetch,
    HeadNetwork,
    Member,
    MemberDifferences,
    Real,
    ReleasedMember,
    TrainedMember,
    Variant,
)
from discriminator_guidance.config.tuned import TUNED_ENSEMBLE, TUNED_MEMBER, Part, Tuned

__all__ = [
    "TUNED_ENSEMBLE",
    "TUNED_MEMBER",
    "Config",
    "Discriminator",
    "DiscriminatorStudy",
    "Download",
    "Fetch",
    "HeadNetwork",
    "LockedFile",
    "LockedStage",
    "Member",
    "MemberDifferences",
    "Part",
    "Real",
    "ReleasedMember",
    "TrainedMember",
    "Tuned",
    "Variant",
    "active_profile",
    "listed_members",
    "load_config",
    "load_tuned",
    "locked_stages",
    "parse_config",
    "promote",
    "refuse_rows_of_others",
    "rows_file",
]
