"""Stage `report`: tables, figures and the page, from the files of the other stages."""

from typing import Any

import torch

from dguide.report.gather import ReportData
from dguide.report.page import build_report
from dguide.settings import Config, Layout, plain
from dguide.stages.guided import variant_trajectory
from dguide.tracking import Tracker, provenance
from discriminator_guidance.core.files import damage_refused, write_json
from discriminator_guidance.core.noise import tau_from_sigma
from discriminator_guidance.core.runtime import progress
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.sampling.weights import delivered_weight


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Write tables, figures, curves.csv and index.html; and, for no version control, where they come from."""
    first, trajectories = layout.replicates(config.replicates)[0], dict[str, Any]()
    rows = config.variants.items()
    weights = {name: delivered_weight(row.window, **vars(SamplerSettings.of(row))) for name, row in rows if row.members}
    settings = plain(config) | {"baselines": config.baselines, "delivered": weights}
    data = ReportData(settings, layout.data, layout.report, first.replicate, trajectories)
    names = list(dict.fromkeys([config.evaluation.baseline, *config.report.log_ratios]))
    with progress("trajectories", len(names), "variants") as advance:
        for name in names:
            arrays = variant_trajectory(config.replicate(0), first, name, config.report.trajectory_images)
            trajectories[name] = arrays | {"tau": tau_from_sigma(torch.from_numpy(arrays["sigma"])).numpy()}
            advance(1)
    with damage_refused(f"results in {layout.report} are damaged", "run the stage or study that writes them again"):
        build_report(data)
    origin, page = layout.data / "provenance.json", layout.report / "index.html"
    write_json(origin, {**provenance(layout.root), "profile": config.profile})
    tracker.artifact(page, origin)
    return {"page": str(page.relative_to(layout.root)), "variants": len(rows), "members": len(config.members)}
