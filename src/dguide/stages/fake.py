"""Stage `fake`: unguided samples, which discriminators learn to distinguish from real images."""

from __future__ import annotations

from typing import Any

from dguide.artifacts import Layout
from dguide.settings import Config
from dguide.stages.guided import draw_samples
from dguide.tracking import Tracker
from discriminator_guidance.files import write_npz
from discriminator_guidance.images import write_grid
from discriminator_guidance.runtime import is_first


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Write samples.npz (images, index, labels of a conditional profile) and grid.png."""
    drawn = draw_samples(config, layout, config.variants[config.evaluation.baseline], config.fake, "fake")
    if not is_first():
        return {}
    arrays = {name: drawn[name] for name in ("images", "index", "labels") if name in drawn}
    write_npz(layout.fake / "samples.npz", **arrays)
    write_grid(layout.fake / "grid.png", drawn["images"])
    tracker.artifact(layout.fake / "grid.png")
    return {"images": len(drawn["images"])}
