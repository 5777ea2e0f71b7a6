"""Stage `fake`: unguided samples, which discriminators learn to distinguish from real images."""

from __future__ import annotations

from typing import Any

from dguide import tracking
from dguide.settings import Config, Layout
from dguide.stages.guided import Arrays, batches_of, draw, write_samples
from dguide.tracking import Tracker


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Write samples.npz (images, labels of a conditional profile, index) and grid.png, drawn as the baseline."""
    row, span, shards = config.variants[config.evaluation.baseline], config.fake, dict[int, Arrays]()
    with tracking.bar("fake", span.images, "images") as advance:
        for number, shard, kept in draw(config, layout, row, span.seed, batches_of(span), "fake"):
            shards[number] = shard
            advance(len(shard["images"]), kept)
    return write_samples(layout.fake, tracker, shards)
