"""The only reader of settings: params.yaml as frozen, bounded, fully explicit types."""

from dguide.settings.config import PARAMS, Config, Member, SampleRange, Variant, load_config, plain, row_of

__all__ = ["PARAMS", "Config", "Member", "SampleRange", "Variant", "load_config", "plain", "row_of"]
