"""The only reader of settings: params.yaml as frozen, bounded, fully explicit types."""

from discriminator_guidance.config.load import load_config
from discriminator_guidance.config.promote import promote, use_profile
from discriminator_guidance.config.sections import Config, HeadNetwork, Member, Variant

__all__ = ["Config", "HeadNetwork", "Member", "Variant", "load_config", "promote", "use_profile"]
