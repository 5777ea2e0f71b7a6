"""What study `factorial` leaves in reports/<profile>/study: effects, cells, losses, and a chart of the causes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial

from discriminator_guidance.data.files import write_csv, write_json
from discriminator_guidance.evaluation.significance import standard_error
from discriminator_guidance.studies.effects import estimate
from discriminator_guidance.studies.factorial import DESIGN, FACTORS, OURS, REPRODUCTION, TRAINING, Cell, design_runs
from discriminator_guidance.studies.record import draw

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.layout import Layout

Done = Mapping[Cell, FrozenTrial]
Terms = Mapping[Cell, float]  # cells of the first block and their weights in a sum

CAUSES = {
    "rule": "clipped logits",
    "init": "sequential members",
    "epoch_factor": "overfitted members",
    "reshuffle": "no reshuffling",
    "boosting": "boosting",
    "steps": "number of steps",
    "w2": "w2",
}
ASKED = ("on average", "added to ours", "in the reproduction")  # three ways to ask what a cause does


def write_results(config: Config, layout: Layout, done: Done) -> None:
    """Write factorial.csv (effects), factorial.json, and factorial_{cells.csv, members.csv, effects.png}."""
    section, note = config.study.factorial, {"note": config.real.note} if config.real.note else {}
    rows = [effect_row(config, done, *effect) for effect in effects()]
    design = {"resolution": DESIGN.resolution(), "defining_relation": DESIGN.words()}
    facts = {"study": "factorial", "n_trials": len(done), "fid_network": config.fid_network.name, "design": design}
    write_json(layout.study / "factorial.json", facts | section.model_dump(mode="json") | note)
    write_csv(layout.study / "factorial.csv", [row | note for row in rows])
    write_csv(layout.study / "factorial_cells.csv", [_cell_row(config, *item) | note for item in done.items()])
    write_csv(layout.study / "factorial_members.csv", [row | note for row in _loss_rows(config, done)])
    draw(lambda: _draw_causes(rows, config), layout.study / "factorial_effects.png", config)


def effects() -> Iterator[tuple[str, str, Terms]]:
    """Everything that is estimated: how it is asked, what it is, and the sum of cells that gives it."""
    runs, ours, theirs = [Cell(0, on) for on in design_runs()], Cell(0, OURS), Cell(0, REPRODUCTION)
    for factor in FACTORS:
        yield ASKED[0], CAUSES[factor], dict(zip(runs, DESIGN.contrast((factor,)).tolist(), strict=True))
    for factor in FACTORS:
        yield ASKED[1], CAUSES[factor], {Cell(0, OURS | {factor}): 1.0, ours: -1.0}
    for factor in FACTORS:
        yield ASKED[2], CAUSES[factor], {theirs: 1.0, Cell(0, REPRODUCTION - {factor}): -1.0}
    one, other = (replace(cell, members="first") for cell in (ours, theirs))
    unguided, theirs_unguided = (replace(cell, members="none") for cell in (ours, theirs))
    for first, second in ((theirs, ours), (theirs, other), (theirs, theirs_unguided), (ours, one), (ours, unguided)):
        yield "compared", f"{first.label()} / {second.label()}", {first: 1.0, second: -1.0}
    for group in DESIGN.interactions():
        what = " = ".join(" x ".join(CAUSES[name] for name in effect) for effect in group)
        yield "interaction", what, dict(zip(runs, DESIGN.contrast(group[0]).tolist(), strict=True))
    for cell in (unguided, one, ours, theirs_unguided, other, theirs):
        yield "distance", cell.label(), {cell: 1.0}


def effect_row(config: Config, done: Done, asked: str, what: str, terms: Terms) -> dict[str, Any]:
    """An effect as the factor by which it multiplies the distance."""
    seeds = config.study.factorial.training_seeds
    trials = [[done[replace(cell, block=block)] for cell in terms] for block in range(len(seeds))]
    fid = np.array([[trial.value for trial in row] for row in trials])
    influence = np.array([[trial.user_attrs["influence"] for trial in row] for row in trials])
    found = estimate(np.log(fid), influence / fid[:, :, None], np.array(list(terms.values())))
    logs = {"factor": found.value, "low": found.low, "high": found.high}
    logs |= {f"seed {seed}": block for seed, block in zip(seeds, found.blocks, strict=True)}
    logs["sampling"] = 1.96 * found.sampling_error  # the factor by which other samples move it
    return {"asked": asked, "what": what, **{name: float(np.exp(value)) for name, value in logs.items()}}


def _draw_causes(rows: list[dict[str, Any]], config: Config) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    _, axes = plt.subplots(figsize=(9.0, 5.4))
    axes.axvline(1, color="grey", linewidth=1, linestyle="--", zorder=0)
    for shift, asked in enumerate(ASKED):
        shown = [row for row in rows if row["asked"] == asked]
        low, factor, high = (np.array([row[key] for row in shown]) for key in ("low", "factor", "high"))
        y = np.arange(len(factor)) + 0.24 * (shift - 1)
        axes.errorbar(factor, y, xerr=[factor - low, high - factor], fmt="o", markersize=5, label=asked)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(CAUSES)), labels=list(CAUSES.values()))
    axes.invert_yaxis()
    section = config.study.factorial
    facts = f"N = {section.images} a cell; bars: 95 % over {len(section.training_seeds)} training seeds"
    axes.set_xlabel(f"factor on FID ({config.fid_network.name}); below 1 helps, above harms; {facts}")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return axes


def _cell_row(config: Config, cell: Cell, trial: FrozenTrial) -> dict[str, Any]:
    influence = np.array(trial.user_attrs["influence"])
    facts = {"fid": trial.value, "sampling_error": standard_error(influence), "n": config.study.factorial.images}
    return {"cell": cell.label(), **cell.params(config), **facts}


def _loss_rows(config: Config, done: Done) -> Iterator[dict[str, Any]]:
    """The losses of each member of each training set, once."""
    trained = [(cell, trial) for cell, trial in done.items() if cell.members != "none"]
    sets = {(cell.block, cell.on & TRAINING): (cell, trial) for cell, trial in reversed(trained)}
    for cell, trial in reversed(sets.values()):
        levels = {key: value for key, value in cell.params(config).items() if key in {"training_seed", *TRAINING}}
        for member, losses in trial.user_attrs["losses"].items():
            yield {**levels, "member": member, **losses}
