"""Stage `fake`: unguided samples, which discriminators learn to distinguish from real images."""

from dataclasses import replace
from typing import Any

from dguide.settings import Config, Layout, plain
from dguide.stages.guided import write_samples
from dguide.tracking import Tracker


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Write samples drawn as the baseline, and those of the score network's other states that are asked for."""
    baseline, drawn = config.variants[config.evaluation.baseline], dict[str, Any]()
    tracker.params(plain(baseline))
    for network in (*config.fake.networks, None):  # the last grid is the one that MLflow keeps
        row, work = replace(baseline, network=network), "/".join(filter(None, ["fake", network]))
        drawn |= write_samples(config, layout, tracker, row, config.fake, layout.fake(network), work)
    return drawn
