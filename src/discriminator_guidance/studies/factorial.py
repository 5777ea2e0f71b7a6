"""Study `factorial`: how much each known cause contributes to what the reproduction's ensemble scored.

Seven factors, each at our level or at the reproduction's. A 2^(7-3) fraction of resolution IV, which holds our ensemble
and the reproduction's, gives main effects clear of two-factor interactions. Beside it stand the reproduction with one
cause undone, our ensemble with one cause added, one discriminator alone, and no guidance. Training seeds are blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna

from discriminator_guidance import progress
from discriminator_guidance.config import Member, Variant
from discriminator_guidance.config.sections import SampleRange
from discriminator_guidance.data.resume import Resumable
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.stages.discriminator import DiscriminatorInputs, open_inputs, start_head, train_head
from discriminator_guidance.stages.resume import resumable
from discriminator_guidance.studies.distances import GuidedDistances, distance_inputs, distance_settings
from discriminator_guidance.studies.effects import Fraction
from discriminator_guidance.studies.storage import StudyPlan
from discriminator_guidance.studies.trials import begin, complete, run_trials, waiting, wanted
from discriminator_guidance.training.grid import validate

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.layout import Layout
    from discriminator_guidance.tracking import Tracker

WORD = "factorial"
FACTORS = ("rule", "init", "epoch_factor", "reshuffle", "boosting", "steps", "w2")
TRAINING = {"init", "epoch_factor", "reshuffle"}  # the factors that decide what members become
# The three factors of training are together in no word: every training set is sampled twice, and every factor of
# sampling changes within it. The generators have odd length, so that all levels of ours and all of the reproduction's
# occur.
DESIGN = Fraction(
    factors=FACTORS,
    base=("init", "epoch_factor", "rule", "reshuffle"),
    generators={
        "boosting": ("init", "epoch_factor", "rule"),
        "steps": ("epoch_factor", "rule", "reshuffle"),
        "w2": ("init", "rule", "reshuffle"),
    },
)
OURS, REPRODUCTION = frozenset[str](), frozenset(FACTORS)
GROUPS = 300  # neighbouring samples whose mean influence is kept, so that journals stay small
SEED_STRIDE = 1000  # between the members' seeds of two blocks


@dataclass(frozen=True)
class Cell:
    """One trial: a block, a combination of levels, and how many members guide."""

    block: int  # index among the training seeds
    on: frozenset[str]  # the factors at the reproduction's level; the others are at ours
    members: Literal["all", "first", "none"] = "all"

    def params(self, config: Config) -> dict[str, Any]:
        """Its parameters for Optuna."""
        section = config.study.factorial
        levels = {factor: getattr(section.levels, factor)[factor in self.on] for factor in FACTORS}
        return {"training_seed": section.training_seeds[self.block], "members": self.members, **levels}

    def label(self) -> str:
        """Its name without the block."""
        corners = {0: "ours", len(FACTORS): "reproduction"}
        on = corners.get(len(self.on)) or " + ".join(factor for factor in FACTORS if factor in self.on)
        return {"all": on, "first": f"one discriminator, {on}", "none": f"no guidance, {on}"}[self.members]


def run(config: Config, layout: Layout, recover_all: bool) -> dict[str, Any]:
    """Run the cells that are missing, each a trial, and write effects, tables and chart when all are complete."""
    from discriminator_guidance.studies.factorial_record import write_results

    seeds = config.study.factorial.training_seeds
    cells = planned_cells(len(seeds))
    starts = {f"{cell.label()}, seed {seeds[cell.block]}": cell.params(config) for cell in cells}
    study = begin(config, layout, plan(config, layout), starts, recover_all)
    if wanted(str(len(cells)), study, layout) is None:
        return {"cells": len(cells)}
    if waiting(study):
        distances, inputs = GuidedDistances(config, layout), open_inputs(training_config(config), layout)
        objective = partial(_objective, inputs, distances)
        run_trials(study, objective, None, config, config.study.factorial.model_dump())
    done = {cell_of(trial.params, config): trial for trial in complete(study)}
    if missing := [cell.label() for cell in cells if cell not in done]:
        progress.notice(f"{len(missing)} cells are not complete, e.g. {missing[0]}: run the command again")
        return {"cells": len(done), "missing": len(missing)}
    write_results(config, layout, {cell: done[cell] for cell in cells})
    return {"cells": len(cells), "results": f"reports/{layout.profile}/study/{WORD}.csv"}


def plan(config: Config, layout: Layout) -> StudyPlan:
    """The experiment."""
    section = config.study.factorial
    return StudyPlan(
        word=WORD,
        objective=f"FID ({config.fid_network.name}) of {section.images} samples",
        settings={
            "factorial": section.model_dump(exclude={"threads"}),
            "members": [config.member(name).model_dump() for name in section.members],
            "discriminator": config.discriminator.model_dump(),
            "seed": config.guided.seed,
            **distance_settings(config),
        },
        inputs=(*distance_inputs(layout), layout.fake / "samples.npz"),
    )


def design_runs() -> list[frozenset[str]]:
    """The runs of the fraction, each as the factors at the reproduction's level."""
    return [frozenset(name for name, level in zip(FACTORS, row, strict=True) if level > 0) for row in DESIGN.levels()]


def planned_cells(blocks: int) -> list[Cell]:
    """Every cell once; neighbours have different training sets, so that processes do not train the same one."""
    added = [OURS | {factor} for factor in FACTORS]
    undone = [REPRODUCTION - {factor} for factor in FACTORS]
    runs = list(dict.fromkeys([*design_runs(), *added, *undone]))
    cells = [Cell(block, on) for block in range(blocks) for on in runs]
    cells += [Cell(b, on, few) for few in ("first", "none") for b in range(blocks) for on in (OURS, REPRODUCTION)]
    sets = [(cell.block, cell.on & TRAINING) for cell in cells]
    turn = {cell: sets[:index].count(sets[index]) for index, cell in enumerate(cells)}
    return sorted(cells, key=lambda cell: turn[cell])


def cell_of(params: Mapping[str, Any], config: Config) -> Cell:
    """The cell of a trial's parameters."""
    section = config.study.factorial
    on = frozenset(factor for factor in FACTORS if params[factor] == getattr(section.levels, factor)[1])
    return Cell(section.training_seeds.index(params["training_seed"]), on, params["members"])


def cell_variant(cell: Cell, config: Config) -> Variant:
    """How a cell is sampled."""
    section, params = config.study.factorial, cell.params(config)
    needs = {"all": "discriminator", "first": f"discriminator/{section.members[0]}", "none": "score"}[cell.members]
    names = {"all": section.members, "first": section.members[:1], "none": ()}[cell.members]
    shared: dict[str, Any] = {"needs": needs, "members": names, "weights": "equal", "steps": params["steps"]}
    if not names:
        return Variant(**shared, rule="mean_probability", w1=0.0, w2=0.0, boosting=False)
    rule: Any = params["rule"] if len(names) > 1 else "mean_probability"
    return Variant(**shared, rule=rule, w1=section.w1, w2=params["w2"], boosting=params["boosting"])


def cell_range(cell: Cell, config: Config) -> SampleRange:
    """The samples of a cell: those of its block."""
    section, guided = config.study.factorial, config.guided
    start = section.seed_start + cell.block * section.images
    return SampleRange(images=section.images, seed=guided.seed, seed_start=start, batch_size=guided.batch_size)


def training_config(config: Config, cell: Cell | None = None) -> Config:
    """The settings with which the members of all cells, or of one, are trained."""
    section = config.study.factorial
    images = section.training_images or config.discriminator.images
    fields = {"images": images, "learning_rate_factor": section.learning_rate_factor}
    fields |= {} if cell is None else {"epoch_factor": cell.params(config)["epoch_factor"]}
    return config.model_copy(update={"discriminator": config.discriminator.model_copy(update=fields)})


def training_rows(config: Config, cell: Cell) -> dict[str, Member]:
    """The members of a cell's training set, which all cells with the same levels of training in a block share."""
    params, rows = cell.params(config), {}
    for name in config.study.factorial.members:
        row = config.member(name)
        seed = row.seed + SEED_STRIDE * params["training_seed"]
        fields = {"seed": seed, "reshuffle": params["reshuffle"], "start": f"models/{config.profile}/extractor"}
        rows[name] = row.model_copy(update=fields)
    return rows


def train_members(inputs: DiscriminatorInputs, cell: Cell) -> tuple[list[EncoderUNet], dict[str, Any]]:
    """The heads of a cell's training set and their losses; .partial keeps them for the other cells that share it."""
    rows, init = training_rows(inputs.config, cell), cell.params(inputs.config)["init"]
    own = replace(inputs, config=training_config(inputs.config, cell))
    key = {
        "section": own.config.discriminator.model_dump(),
        "members": {name: row.model_dump() for name, row in rows.items()},
        "init": init,
        "cond": own.config.cond,
        "feature_precision": inputs.feature_precision,
    }
    finished = resumable(inputs.layout, "study-factorial", inputs.files, key, inputs.compute)
    state: dict[str, Any] = finished.load() or {}
    heads, before = list[EncoderUNet](), None
    score = partial(validate, grid=inputs.validation, compute=inputs.compute)  # the grid is the same for all cells
    for name, row in rows.items():
        if name not in state:
            checkpoints = Resumable(finished.folder, name, {})
            start = before if init == "sequential" else None
            head, kept, history = train_head(own, row, checkpoints, lambda *_: None, start, score)
            best = min(history, key=lambda entry: entry["validation_loss"])
            losses = {column: history[-1][column] for column in ("epoch", "train_loss", "validation_loss")}
            losses |= {"best_validation_loss": best["validation_loss"], "best_epoch": best["epoch"]}
            state[name] = {"kept": kept, "last": head.state_dict(), "losses": losses}
            finished.save(state)
            checkpoints.remove()
        before = state[name]["last"]
        heads.append(start_head(own, row))
        heads[-1].load_state_dict(state[name]["kept"])
    return heads, {name: state[name]["losses"] for name in rows}


def _objective(inputs: DiscriminatorInputs, distances: GuidedDistances, trial: optuna.Trial, tracker: Tracker) -> float:
    config = distances.config
    trial.suggest_categorical("training_seed", config.study.factorial.training_seeds)
    trial.suggest_categorical("members", ("all", "first", "none"))
    for factor in FACTORS:
        trial.suggest_categorical(factor, getattr(config.study.factorial.levels, factor))
    cell = cell_of(trial.params, config)
    variant, heads = cell_variant(cell, config), []
    if variant.members:
        trained, losses = train_members(inputs, cell)
        heads = [distances.compute.place(head) for head in trained[: len(variant.members)]]
        trial.set_user_attr("losses", losses)
    fid, influence = distances.distance([*distances.batches(variant, heads, cell_range(cell, config))])
    groups = np.array_split(influence, min(len(influence), GROUPS))
    trial.set_user_attr("influence", [float(f"{group.mean():.9g}") for group in groups])
    return fid
