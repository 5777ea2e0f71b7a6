"""Study `factorial`: its design, what its cells are, its effects against known ones, and its resumption."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy import stats

from discriminator_guidance.config import Config
from discriminator_guidance.stages.discriminator import open_inputs
from discriminator_guidance.studies import factorial, trials
from discriminator_guidance.studies.factorial import Cell
from discriminator_guidance.studies.factorial_record import write_results
from tests.stages.conftest import Tiny, tiny_settings, write_params

SMALL = {
    "study.factorial.images": 4,
    "study.factorial.training_images": 12,
    "study.factorial.levels.steps": [2, 3],
    "study.factorial.levels.epoch_factor": [0.4, 0.7],
}


def two_seeds(config: Config) -> Config:
    """Fewer blocks than a user may ask for."""
    section = config.study.factorial.model_copy(update={"training_seeds": (1, 2)})
    return config.model_copy(update={"study": config.study.model_copy(update={"factorial": section})})


@pytest.fixture
def small(tiny: Tiny) -> Tiny:
    config, layout = write_params(tiny[1].root, tiny_settings(SMALL))
    return two_seeds(config), layout


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_ours_and_the_reproductions_occur_and_every_training_set_is_sampled_twice():
    runs = factorial.design_runs()
    assert {factorial.OURS, factorial.REPRODUCTION} < set(runs)
    assert len(set(runs)) == 16
    assert factorial.DESIGN.resolution() == 4
    for word in factorial.DESIGN.words():
        assert not set(word) >= factorial.TRAINING  # else a factor of sampling would change between sets only
    sets = Counter(run & factorial.TRAINING for run in runs)
    assert len(sets) == 8
    assert set(sets.values()) == {2}


def test_every_cell_is_planned_once_and_neighbours_have_different_members():
    cells = factorial.planned_cells(3)
    assert len(cells) == len(set(cells)) == 3 * (16 + 14 + 4)
    sets = [(cell.block, cell.on & factorial.TRAINING) for cell in cells[:24]]
    assert len(set(sets)) == 24


def test_levels_reach_training_and_sampling(small: Tiny):
    config, _ = small
    theirs, ours = Cell(1, factorial.REPRODUCTION), Cell(1, factorial.OURS)
    for cell in (theirs, ours, Cell(0, frozenset({"rule", "w2"}), "first")):
        assert factorial.cell_of(cell.params(config), config) == cell
    sections = [factorial.training_config(config, cell).discriminator for cell in (ours, theirs)]
    assert [section.epoch_factor for section in sections] == [0.4, 0.7]
    rows = [factorial.training_rows(config, cell)["d1"] for cell in (ours, theirs)]
    assert [row.reshuffle for row in rows] == [True, False]
    assert {row.seed for row in rows} == {config.members["d1"].seed + 2000}
    first, second = (factorial.cell_variant(cell, config) for cell in (ours, theirs))
    assert (first.rule, first.w2, first.boosting, first.steps) == ("mean_probability", 2.0, False, 2)
    assert (second.rule, second.w2, second.boosting, second.steps) == ("clipped_logit_mean", 0.0, True, 3)
    single = factorial.cell_variant(Cell(1, factorial.REPRODUCTION, "first"), config)
    assert (single.members, single.rule, single.boosting) == (("d0",), "mean_probability", True)
    assert factorial.cell_range(ours, config).seed_start == config.study.factorial.seed_start + 4


def test_sequential_members_continue_each_other(small: Tiny):
    config, layout = small
    inputs = open_inputs(factorial.training_config(config), layout)
    fresh, _ = factorial.train_members(inputs, Cell(0, frozenset()))
    chained, losses = factorial.train_members(inputs, Cell(0, frozenset({"init"})))
    parameters = [[p.detach().numpy() for p in head.parameters()] for head in (*fresh, *chained)]
    assert all(np.array_equal(a, b) for a, b in zip(parameters[0], parameters[2], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(parameters[1], parameters[3], strict=True))
    again, known = factorial.train_members(inputs, Cell(0, frozenset({"init", "w2"})))
    assert known == losses, "another cell of the same training set"
    assert all(np.array_equal(a, b.detach().numpy()) for a, b in zip(parameters[3], again[1].parameters(), strict=True))


def test_known_effects_are_found(tmp_path: Path):
    config, layout = write_params(tmp_path, tiny_settings())
    rng, effects = (
        np.random.default_rng(0),
        dict(zip(factorial.FACTORS, (2.0, 1.1, 0.8, 1.0, 1.3, 1.5, 0.6), strict=True)),
    )
    blocks, pair = (0.9, 1.0, 1.2), {"rule", "steps"}
    done = {}
    for cell in factorial.planned_cells(3):
        fid = 3.0 * blocks[cell.block] * np.prod([effects[name] for name in cell.on])
        fid *= 1.4 if pair <= cell.on else 1.0
        facts = {"influence": rng.normal(size=16).tolist(), "losses": {"d0": {"epoch": 1, "train_loss": 0.5}}}
        done[cell] = optuna.trial.create_trial(value=float(fid), user_attrs=facts)
    write_results(config, layout, done)
    found = {(row["asked"], row["what"]): row for row in table(layout.study / "factorial.csv")}
    for name, cause in (("init", "sequential members"), ("w2", "w2"), ("boosting", "boosting")):
        for asked in ("on average", "added to ours", "in the reproduction"):
            row = found[asked, cause]
            assert float(row["factor"]) == pytest.approx(effects[name], rel=1e-6), (asked, cause)
            assert float(row["low"]) == pytest.approx(float(row["high"])), "blocks agree"
    assert float(found["on average", "clipped logits"]["factor"]) == pytest.approx(2 * 1.4**0.5)
    assert float(found["in the reproduction", "clipped logits"]["factor"]) == pytest.approx(2 * 1.4)
    both = "clipped logits x number of steps"
    (interaction,) = [row for (asked, what), row in found.items() if asked == "interaction" and both in what]
    assert float(interaction["factor"]) == pytest.approx(1.4**0.5)
    whole = float(np.prod([*effects.values()]) * 1.4)
    assert float(found["compared", "reproduction / ours"]["factor"]) == pytest.approx(whole)
    ours = found["distance", "ours"]
    assert [float(ours[f"seed {seed}"]) for seed in (1, 2, 3)] == pytest.approx([3 * block for block in blocks])
    logs = np.log([3 * block for block in blocks])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert [float(ours["low"]), float(ours["high"])] == pytest.approx([np.exp(low), np.exp(high)], rel=1e-6)
    assert len(table(layout.study / "factorial_cells.csv")) == 102
    assert len(table(layout.study / "factorial_members.csv")) == 24
    assert json.loads((layout.study / "factorial.json").read_text())["design"]["resolution"] == 4
    assert (layout.study / "factorial_effects.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_experiment_goes_on_and_ends_as_an_uninterrupted_one(small: Tiny, monkeypatch):
    config, layout = small
    original, seen = trials.count, []

    def interrupted(study: optuna.Study) -> int:
        seen.append(study)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return original(study)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "count", interrupted)
        with pytest.raises(KeyboardInterrupt):
            factorial.run(config, layout, False)
    assert list(layout.partial.glob("study-factorial*")), "members are kept"
    result = factorial.run(config, layout, False)
    assert result["cells"] == 68
    rows = table(layout.study / "factorial_cells.csv")
    assert len(rows) == 68
    assert {row["members"] for row in rows} == {"all", "first", "none"}
    before = {path.name: path.read_bytes() for path in layout.study.iterdir()}
    assert factorial.run(config, layout, False) == {"cells": 68}
    assert {path.name: path.read_bytes() for path in layout.study.iterdir()} == before
    # A cell does not depend on what was run before it, nor on members that .partial had.
    shutil.rmtree(layout.partial)
    inputs, cell = open_inputs(factorial.training_config(config), layout), Cell(0, frozenset({"rule"}))
    heads, _ = factorial.train_members(inputs, cell)
    distances, variant = factorial.GuidedDistances(config, layout), factorial.cell_variant(cell, config)
    fid, _ = distances.distance([*distances.batches(variant, heads, factorial.cell_range(cell, config))])
    (row,) = [row for row in rows if row["cell"] == "rule" and row["training_seed"] == "1"]
    assert fid == pytest.approx(float(row["fid"]), rel=1e-6)
