"""Stage `report`: tables, figures and the page, from the files of the other stages."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from discriminator_guidance.artifacts.files import fingerprint, read_json, read_npz, require, sha256
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.significance import paired_difference
from discriminator_guidance.guidance.density_ratio import PROBABILITY_CLIP
from discriminator_guidance.provenance import provenance
from discriminator_guidance.report.absent import absent_rows
from discriminator_guidance.report.gather import BASELINES, Difference, ReportInputs
from discriminator_guidance.report.page import build_report
from discriminator_guidance.report.readers import read_json as read_checked_json
from discriminator_guidance.stages.chain import predecessor, predecessors_hash
from discriminator_guidance.stages.context import Context, StageResult
from discriminator_guidance.stages.layout import Layout

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Discriminator

LIBRARIES = ("torch", "torchmetrics", "torch-fidelity", "numpy", "scipy", "scikit-learn")


def run(config: Config, context: Context) -> StageResult:
    """Write tables, figures, curves, provenance and `index.html`.

    Args:
        config: reads everything, since Tables 1 and 2 print it.
        context: surroundings.

    Returns:
        Where the page is.
    """
    layout = context.layout
    settings = config.model_dump(mode="json")
    members = tuple(name for name, row in config.discriminator.members.items() if not hasattr(row, "path"))
    for member in members:
        _refuse_outdated_start(config.discriminator, context, member)
    inputs = ReportInputs(
        profile=layout.profile,
        settings=config.model_dump(),
        evaluation=layout.report / "evaluation",
        studies=layout.study_reports,
        discriminator=layout.discriminator_reports,
        guided=layout.guided(""),
        real_images=layout.real / "train.npz",
        card=layout.real / "card.json",
        destination=layout.report,
        members=members,
        variants=tuple(config.guided.variants),
        differences=_differences(layout, config),
        probability_clip=PROBABILITY_CLIP,
        provenance=_provenance(config, context, fingerprint(settings)),
    )
    with context.bar("writing the report", 1, "page") as advance:
        build_report(inputs)
        advance(1)
    page = layout.report / "index.html"
    written = [*sorted((layout.report / "tables").iterdir()), *sorted((layout.report / "figures").iterdir())]
    return StageResult(
        summary={"page": str(page.relative_to(layout.root)), "files": len(written) + 3},
        outputs=[*written, layout.report / "curves.csv", layout.report / "provenance.json", page],
        artifacts=[*written, page],
    )


@dataclass(frozen=True)
class _Evaluated:
    distances: list[float]
    influence: np.ndarray
    index: np.ndarray


def _differences(layout: Layout, config: Config) -> dict[str, dict[str, Difference]]:
    absent = absent_rows(layout.profile, config.model_dump(), layout.report / "evaluation")
    evaluated = {name: _evaluated(layout, name) for name in config.guided.variants if name not in absent}
    return {
        baseline: {
            name: _difference(evaluated[name], evaluated[baseline], f"{name} and {baseline}")
            for name in evaluated
            if name != baseline
        }
        for baseline in BASELINES
        if baseline in evaluated
    }


def _evaluated(layout: Layout, variant: str) -> _Evaluated:
    distances = read_checked_json(layout.evaluation(variant), "evaluation", {"fid_ranges": "numbers"})["fid_ranges"]
    return _Evaluated(distances, **read_npz(layout.influence(variant), ["influence", "index"], "evaluation"))


def _difference(one: _Evaluated, other: _Evaluated, names: str) -> Difference:
    if not np.array_equal(one.index, other.index):
        raise InputError(
            f"the same sample indices in the influence of {names}",
            "different ones",
            "run stage evaluation of both again",
        )
    return Difference(*paired_difference(one.distances, one.influence, other.distances, other.influence))


def _refuse_outdated_start(settings: Discriminator, context: Context, member: str) -> None:
    path, profile = context.layout.discriminator_reports / member / "metrics.json", context.layout.profile
    recorded = read_json(path, "discriminator").get("predecessors_hash")
    if recorded != predecessors_hash(settings, member):
        raise InputError(
            f"a discriminator {member} that goes on from {predecessor(settings, member) or 'none'} as configured now",
            "one trained when the members before it had other settings",
            f"run `dvc repro -f -s discriminator@{profile}-{member}`, then `dvc repro`",
        )


def _provenance(config: Config, context: Context, params_hash: str) -> dict[str, Any]:
    layout = context.layout
    data = {"real": layout.real / "train.npz", "holdout": layout.real / "holdout.npz"}
    for path in data.values():
        require(path, "real")
    state = provenance(layout.root)
    unguided = read_json(layout.evaluation("edm"), "evaluation")
    return {
        "profile": layout.profile,
        "commit": state.get("git.commit", "not a git checkout"),
        "uncommitted changes": state.get("git.dirty", "unknown"),
        "settings sha256": params_hash,
        "data sha256": {name: sha256(path) for name, path in data.items()},
        "precision": {
            "training": config.runtime.training_precision,
            "sampling": unguided["precision_mode"],
        },
        "threads": config.runtime.threads,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
