"""Stage `report`: tables, figures and the page, from the files of the other stages."""

from __future__ import annotations

import platform
from importlib.metadata import version
from itertools import permutations
from typing import Any

import torch

from dguide.artifacts import Layout
from dguide.report.gather import ReportInputs
from dguide.report.page import build_report
from dguide.settings import Config
from dguide.stages.comparisons import differences, read_evaluated, standings
from dguide.tracking import Tracker, git
from discriminator_guidance.files import fingerprint, read_json, sha256, write_csv, write_json
from discriminator_guidance.guidance import LOG_RATIO_BOUND, PROBABILITY_CLIP
from discriminator_guidance.metrics.significance import holm
from discriminator_guidance.noise import tau_from_sigma
from discriminator_guidance.runtime import is_first

LIBRARIES = ("torch", "torchmetrics", "torch-fidelity", "numpy", "scipy", "pandas", "matplotlib")
CODE = ("src", "dvc.yaml")  # params.yaml is a copy of a profile; the hash of the settings tells of edits


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Write details, tables, figures, curves.csv, provenance.json and index.html."""
    if not is_first():
        return {}
    evaluated = {name: read_evaluated(layout, name) for name in config.variants}
    origin = provenance(config, layout)
    for name in evaluated:  # from DVC's cache to where git keeps them
        details = read_json(layout.evaluated(name) / "details.json", "evaluation")
        write_json(layout.details(name), {**details, "provenance": origin})
    apart = differences(evaluated)
    p_values = {name: found.p for name, found in apart["edm"].items()}
    rest = [name for name in p_values if (name, "edm") != tuple(config.report.primary)]
    inputs = ReportInputs(
        settings=config.model_dump(mode="json"),
        data=layout.real.parent,
        report=layout.report,
        differences=apart,
        standings=standings(config.variants, evaluated),
        probability_clip=PROBABILITY_CLIP,
        log_ratio_bound=LOG_RATIO_BOUND,
        vp_time=lambda sigma: tau_from_sigma(torch.tensor(sigma)).item(),
        provenance=origin,
        replicate=layout.replicates(config.replicates)[0].replicate,
        adjusted_p=p_values | dict(zip(rest, holm([p_values[name] for name in rest]), strict=True)),
    )
    build_report(inputs)
    note, rows = {"note": config.real.note} if config.real.note else {}, []
    for name, other in permutations(evaluated, 2):
        found, pair = apart[other][name], {"variant": name, "other": other}
        low, high = found.bounds
        rows.append({**pair, "difference": found.value, "low": low, "high": high, "p": found.p, **note})
    write_csv(layout.report / "tables" / "differences.csv", rows)
    page = layout.report / "index.html"
    tracker.artifact(page)
    return {"page": str(page.relative_to(layout.root)), "variants": len(evaluated), "members": len(config.members)}


def provenance(config: Config, layout: Layout) -> dict[str, Any]:
    """The commit of the code, settings, data, versions and machine behind the report; no dates."""
    details = read_json(layout.evaluated("edm") / "details.json", "evaluation")
    commit = git(layout.root, "log", "-1", "--format=%H", "--", *CODE)
    return {
        "profile": config.profile,
        "commit": commit or "not a git checkout",
        "uncommitted changes": bool(git(layout.root, "status", "--porcelain", "--", *CODE)) if commit else "unknown",
        "settings sha256": fingerprint(config.model_dump(mode="json", exclude={"study", "fetch"})),
        "data sha256": {"real": sha256(layout.real / "train.npz"), "holdout": sha256(layout.real / "holdout.npz")},
        "precision": {"training": config.runtime.training_precision, "sampling": details["precision_mode"]},
        "device": details.get("device", config.runtime.device),
        "threads": config.runtime.threads,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
