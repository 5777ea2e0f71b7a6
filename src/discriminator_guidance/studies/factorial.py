"""Command `factorial`: how much each known cause contributes to what the study's ensemble scored.

Seven factors, each at our level or at the study's. A 2^(7-3) fraction of resolution IV, in which our ensemble and the
study's both occur, gives main effects clear of two-factor interactions; beside it stand the study with one cause
undone, our ensemble with one cause added, one discriminator alone, and no guidance. Training seeds are blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from discriminator_guidance.artifacts.checksums import ENDING, write_checksums
from discriminator_guidance.artifacts.files import fingerprint, require, sha256, write_bytes, write_csv, write_json
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.evaluation.effects import Fraction, contrast, estimate
from discriminator_guidance.provenance import provenance
from discriminator_guidance.report.factorial import factorial_files
from discriminator_guidance.report.wording import data_note
from discriminator_guidance.stages.context import Bar, StageResult
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies.cells import (
    TRAINING,
    Cell,
    Laboratory,
    draw_cell,
    read_cell,
    sampled,
    train_members,
    trained,
)
from discriminator_guidance.studies.crew import run_tasks

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

FACTORS = ("rule", "init", "epoch_factor", "reshuffle", "boosting", "steps", "w2")
# The three factors of training are together in no word: every training set is sampled twice, and every factor of
# sampling changes within it. The generators have odd length, so that all levels of ours and all of the study's occur.
DESIGN = Fraction(
    factors=FACTORS,
    base=("init", "epoch_factor", "rule", "reshuffle"),
    generators={
        "boosting": ("init", "epoch_factor", "rule"),
        "steps": ("epoch_factor", "rule", "reshuffle"),
        "w2": ("init", "rule", "reshuffle"),
    },
)
OURS, STUDY = frozenset[str](), frozenset(FACTORS)
NEEDS = {"score": WEIGHT_FILES, "extractor": WEIGHT_FILES, "fid_network": WEIGHT_FILES}


def run(
    config: Config,
    layout: Layout,
    workers: int,
    bar: Bar,
    on_cell: Callable[[Mapping[str, Any]], None],
) -> StageResult:
    """Run the cells that are missing and write tables, figure and record.

    Args:
        config: a whole profile.
        layout: where files are.
        workers: processes.
        bar: opens a progress bar.
        on_cell: told the row of each cell that is computed now.

    Returns:
        The number of cells and where the results are.

    Raises:
        InputError: a stage has not run yet, or a worker was killed.
    """
    for word, names in NEEDS.items():
        for name in names:
            require(layout.model(word) / name, word)
    require(layout.real / "train.npz", "real")
    require(layout.fake / "samples.npz", "fake")
    laboratory = Laboratory(config, layout)
    cells = list(plan(len(config.factorial.training_seeds)))

    sets = {laboratory.heads(cell): cell for cell in cells if cell.members != "none"}
    waiting = sorted((c for c in sets.values() if not trained(laboratory, c)), key=_training_cost)
    with bar("training members", len(sets), "sets of members") as advance:
        advance(len(sets) - len(waiting))
        for _ in run_tasks(train_members, [(laboratory, cell) for cell in waiting], workers):
            advance(1)
    missing = sorted((c for c in cells if not sampled(laboratory, c)), key=lambda c: _sampling_cost(config, c))
    with bar("drawing cells", len(cells), "cells") as advance:
        advance(len(cells) - len(missing))
        for place in run_tasks(draw_cell, [(laboratory, cell) for cell in missing], workers):
            advance(1)
            on_cell(_row(laboratory, missing[place]))

    record = analyse(laboratory, cells)
    folder = layout.report / "factorial"
    note = data_note({"note": config.real.note})
    beside = {"note": note} if note else {}
    write_csv(folder / "cells.csv", [_row(laboratory, cell) | beside for cell in cells])
    write_csv(folder / "members.csv", [row | beside for row in _losses(laboratory, list(sets.values()))])
    for name, content in factorial_files(record, config.report.dpi, note).items():
        write_bytes(folder / name, content)
    write_json(folder / "factorial.json", record)
    written = sorted(path for path in folder.iterdir() if path.suffix != ENDING)
    write_checksums(folder / f"factorial{ENDING}", written)
    return StageResult(
        summary={"cells": len(cells), "computed now": len(missing), "results": str(folder.relative_to(layout.root))},
        outputs=written,
        artifacts=written,
    )


def design_runs() -> list[frozenset[str]]:
    """The runs of the fraction, each as the factors at the study's level."""
    return [frozenset(name for name, level in zip(FACTORS, row, strict=True) if level > 0) for row in DESIGN.levels()]


def plan(blocks: int) -> Iterator[Cell]:
    """Every cell once: the fraction, one cause added, one undone, one discriminator, no guidance.

    Args:
        blocks: number of training seeds.

    Returns:
        Cells, block by block.
    """
    added = [OURS | {factor} for factor in FACTORS]
    undone = [STUDY - {factor} for factor in FACTORS]
    for block in range(blocks):
        yield from (Cell(block, on) for on in dict.fromkeys([*design_runs(), *added, *undone]))
        yield from (Cell(block, on, members) for members in ("first", "none") for on in (OURS, STUDY))


def analyse(laboratory: Laboratory, cells: list[Cell]) -> dict[str, Any]:
    """Effects, interactions and comparisons with their intervals, and everything they came from.

    Args:
        laboratory: where finished cells are.
        cells: all of them.

    Returns:
        The record, fit for JSON.
    """
    results = {cell: read_cell(laboratory, cell) for cell in cells}
    config, blocks = laboratory.config, range(len(laboratory.config.factorial.training_seeds))

    def both(terms: Mapping[Cell, float]) -> dict[str, Any]:
        """A weighted sum of cells, in each block the same, on the logarithmic and on the plain scale."""
        chosen = [[results[replace(cell, block=block)] for cell in terms] for block in blocks]
        fid = np.array([[value for value, _ in row] for row in chosen])
        influence = np.array([[values for _, values in row] for row in chosen])
        weights = np.array(list(terms.values()))
        return {
            "log": asdict(estimate(np.log(fid), influence / fid[:, :, None], weights)),
            "plain": asdict(estimate(fid, influence, weights)),
        }

    levels, runs = DESIGN.levels(), [Cell(0, on) for on in design_runs()]
    effects = []
    for group in [*(((factor,),) for factor in FACTORS), *DESIGN.chains()]:
        weights = contrast(levels, [FACTORS.index(factor) for factor in group[0]])
        effects.append({"effect": [list(effect) for effect in group], **both(dict(zip(runs, weights, strict=True)))})
    ours, study = Cell(0, OURS), Cell(0, STUDY)
    single_ours, single_study = Cell(0, OURS, "first"), Cell(0, STUDY, "first")
    none_ours, none_study = Cell(0, OURS, "none"), Cell(0, STUDY, "none")
    anchors = {
        "no guidance, ours": none_ours,
        "one discriminator, ours": single_ours,
        "ours": ours,
        "no guidance, study": none_study,
        "one discriminator, study": single_study,
        "study": study,
    }
    return {
        "profile": laboratory.layout.profile,
        "fid_network": config.fid_network.name,
        "images": config.factorial.images,
        "training_seeds": list(config.factorial.training_seeds),
        "members": list(config.factorial.members),
        "training_images": config.factorial.training_images or config.discriminator.images,
        "learning_rate_factor": config.factorial.learning_rate_factor,
        "w1": config.factorial.w1,
        "levels": {name: list(getattr(config.factorial.levels, name)) for name in FACTORS},
        "design": {
            "runs": len(levels),
            "cells": len(cells),
            "generators": {name: list(product) for name, product in DESIGN.generators.items()},
            "defining_relation": [list(word) for word in DESIGN.words()],
            "resolution": DESIGN.resolution(),
        },
        "anchors": {name: both({cell: 1.0}) for name, cell in anchors.items()},
        "comparisons": {
            "study / ours": both({study: 1.0, ours: -1.0}),
            "study / one discriminator, study": both({study: 1.0, single_study: -1.0}),
            "study / no guidance, study": both({study: 1.0, none_study: -1.0}),
            "ours / one discriminator, ours": both({ours: 1.0, single_ours: -1.0}),
            "ours / no guidance, ours": both({ours: 1.0, none_ours: -1.0}),
        },
        "effects": effects,
        "added": {factor: both({Cell(0, OURS | {factor}): 1.0, ours: -1.0}) for factor in FACTORS},
        "undone": {factor: both({study: 1.0, Cell(0, STUDY - {factor}): -1.0}) for factor in FACTORS},
        "losses": _loss_summary(laboratory, cells),
        "provenance": _provenance(laboratory),
    }


def _row(laboratory: Laboratory, cell: Cell) -> dict[str, Any]:
    fid, influence = read_cell(laboratory, cell)
    config = laboratory.config
    error = float(np.sqrt(np.sum(influence**2) / (len(influence) * (len(influence) - 1))))
    return {
        "training_seed": config.factorial.training_seeds[cell.block],
        "cell": cell.label(FACTORS),
        "members": len(laboratory.members(cell)),
        **{factor: cell.level(config, factor) for factor in FACTORS},
        "fid": fid,
        "sampling_error": error,
        "n": len(influence),
    }


def _losses(laboratory: Laboratory, sets: list[Cell]) -> Iterator[dict[str, Any]]:
    config = laboratory.config
    for cell in sets:
        for member, losses in train_members(laboratory, cell).items():
            yield {
                "training_seed": config.factorial.training_seeds[cell.block],
                **{factor: cell.level(config, factor) for factor in TRAINING},
                "member": member,
                **losses,
            }


def _loss_summary(laboratory: Laboratory, cells: list[Cell]) -> list[dict[str, Any]]:
    """Mean losses of a member at each level of `epoch_factor`: whether the second one does overfit."""
    sets = {laboratory.heads(cell): cell for cell in cells if cell.members != "none"}
    rows = list(_losses(laboratory, list(sets.values())))
    keys = ("train_loss", "validation_loss", "best_validation_loss")
    return [
        {
            "epoch_factor": factor,
            "member": member,
            **{key: float(np.mean([row[key] for row in rows if _of(row, factor, member)])) for key in keys},
        }
        for factor in laboratory.config.factorial.levels.epoch_factor
        for member in laboratory.config.factorial.members
    ]


def _of(row: Mapping[str, Any], epoch_factor: float, member: str) -> bool:
    return (row["epoch_factor"], row["member"]) == (epoch_factor, member)


def _training_cost(cell: Cell) -> tuple[bool, int]:
    """Dearest first, so that no worker is left with a long task at the end."""
    return "epoch_factor" not in cell.on, cell.block


def _sampling_cost(config: Config, cell: Cell) -> float:
    slopes = {"none": 0.3, "first": 1.0, "all": 3.0}[cell.members] * (1.0 if "w2" in cell.on else 2.0)
    return -float(cell.level(config, "steps")) * slopes


def _provenance(laboratory: Laboratory) -> dict[str, Any]:
    layout, state = laboratory.layout, provenance(laboratory.layout.root)
    paths: list[Path] = [layout.real / "train.npz", layout.fake / "samples.npz"]
    return {
        "commit": state.get("git.commit", "not a git checkout"),
        "uncommitted changes": state.get("git.dirty", "unknown"),
        "settings sha256": fingerprint(
            {**laboratory.config.model_dump(mode="json"), "factorial": laboratory.config.factorial.model_dump()}
        ),
        "data sha256": {path.parent.name: sha256(path) for path in paths},
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy")},
    }
