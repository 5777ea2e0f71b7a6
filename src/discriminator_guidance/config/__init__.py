"""The only reader of configuration: `configs/<profile>.yaml` as frozen, bounded, fully explicit types."""

from discriminator_guidance.config.loading import load_config, parse_config
from discriminator_guidance.config.sections import (
    Config,
    Discriminator,
    Download,
    Fetch,
    Member,
    Real,
    ReleasedMember,
    TrainedMember,
    Variant,
)

__all__ = [
    "Config",
    "Discriminator",
    "Download",
    "Fetch",
    "Member",
    "Real",
    "ReleasedMember",
    "TrainedMember",
    "Variant",
    "load_config",
    "parse_config",
]
