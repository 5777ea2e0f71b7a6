"""Stage `report`: tables, figures and the page, from the files of the other stages."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from discriminator_guidance.artifacts.files import fingerprint, read_json, require, sha256
from discriminator_guidance.errors import InputError
from discriminator_guidance.guidance.clip import PROBABILITY_CLIP
from discriminator_guidance.provenance import pipeline, provenance
from discriminator_guidance.report.absent import absent_rows
from discriminator_guidance.report.gather import ReportInputs
from discriminator_guidance.report.page import build_report
from discriminator_guidance.stages.chain import predecessor, predecessors_hash
from discriminator_guidance.stages.comparisons import differences, read_evaluated, standings
from discriminator_guidance.stages.context import Context, StageResult

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
    absent = absent_rows(layout.profile, config.model_dump(), layout.report / "evaluation")
    evaluated = {name: read_evaluated(layout, name) for name in config.guided.variants if name not in absent}
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
        differences=differences(evaluated),
        standings=standings(config.guided.variants, evaluated),
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


def _refuse_outdated_start(settings: Discriminator, context: Context, member: str) -> None:
    path, profile = context.layout.discriminator_reports / member / "metrics.json", context.layout.profile
    recorded = read_json(path, "discriminator").get("predecessors_hash")
    if recorded != predecessors_hash(settings, member):
        file, stage = pipeline(), f"discriminator@{profile}-{member}"
        address, again = (f"{file}:{stage}", f"dvc repro {file}") if file else (stage, "dvc repro")
        raise InputError(
            f"a discriminator {member} that goes on from {predecessor(settings, member) or 'none'} as configured now",
            "one trained when the members before it had other settings",
            f"run `dvc repro -f -s {address}`, then `{again}`",
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
