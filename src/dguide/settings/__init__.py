"""The only reader of settings: params.yaml as frozen, bounded, fully explicit types."""

from dguide.settings.config import PARAMS, Config, Member, SampleRange, Variant, described, load_config, plain, row_of
from dguide.settings.layout import REPLICATED, Layout, read_released, released_file, resumable

__all__ = ["PARAMS", "REPLICATED", "Config", "Layout", "Member", "SampleRange", "Variant", "load_config", "plain"]
__all__ += ["described", "read_released", "released_file", "resumable", "row_of"]
