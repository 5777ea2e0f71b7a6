"""Stage `fake`: unguided samples, which discriminators learn to distinguish from real images."""

from __future__ import annotations

from typing import Any

from dguide.settings import Config, Layout
from dguide.stages.guided import write_samples
from dguide.tracking import Tracker


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Write samples drawn as the baseline."""
    row = config.variants[config.evaluation.baseline]
    return write_samples(config, layout, tracker, row, config.fake, layout.fake, "fake")
