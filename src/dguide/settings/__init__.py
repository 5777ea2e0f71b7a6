"""The only reader of settings: params.yaml as frozen, bounded, fully explicit types."""

from dguide.settings.load import load_config
from dguide.settings.promote import promote, use_profile
from dguide.settings.sections import Config, HeadNetwork, Member, Variant

__all__ = ["Config", "HeadNetwork", "Member", "Variant", "load_config", "promote", "use_profile"]
