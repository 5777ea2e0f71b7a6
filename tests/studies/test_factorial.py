"""Study `factorial`: which cells it samples and how, known effects, and its resumption."""

import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import optuna
import pytest
from scipy import stats

from dguide.studies.factorial import CELL, MEASURED, RULES, cell_frame, effects, factors, plan, suggest
from dguide.studies.study import GuidedSamples, run_study
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from tests.stages.conftest import Tiny, load, save_untrained, tiny_settings, write_params
from tests.studies.conftest import table

SETS = {"fresh": ["d0", "d1"], "other": ["d1", "d0"]}
SMALL = {"replicates": 2, "sampler.eps_scale": 1.001, "study.factorial.sets": SETS, "study.factorial.images": 12,
         "study.factorial.steps": [2, 3], "study.factorial.more_steps": [4]}  # fmt: skip


@pytest.fixture
def small(tiny: Tiny) -> Tiny:
    """A tiny study of two replicates with heads of their own."""
    config, layout = write_params(tiny[1].root, tiny_settings(SMALL))
    kept = [layout.fake(), layout.model("score"), layout.model("extractor"), *map(layout.discriminator, config.members)]
    for folder, replicate in product(kept, ("r0", "r1")):
        shutil.copytree(folder, folder / replicate, ignore=shutil.ignore_patterns("r0", "r1"))
    for number, name in enumerate(config.members):
        head = load(layout, f"discriminator/{name}")
        save_untrained(layout.discriminator(name) / "r1", head, head.arguments, seed=number + 1)
    return config, layout


def test_every_cell_is_planned_once_and_the_reproductions_corner_first(small: Tiny):
    cells = [tuple(cell[key] for key in CELL) for cell in plan(small[0]).starts.values()]
    assert len(set(cells)) == len(cells) == 2 * (32 + 4 + 1)
    corner, added = cells[:24], cells[24:26]
    assert {*corner} == {*product(["fresh"], RULES, (1, 2), (2, 3, 4), [0.0], [True], (0, 1))}
    assert added == [("other", "clipped_logit_mean", 2, 3, 0.0, True, seed) for seed in (0, 1)]
    cube = product(["fresh"], RULES, (1, 2), (2, 3), (0.0, 2.0), (False, True), (0, 1))
    assert {*cube} == {cell for cell in cells if cell[3] != 4 and cell[0] == "fresh"}


def test_changes_are_made_to_the_reproductions_cell_alone(small: Tiny):
    config, _ = write_params(
        small[1].root, tiny_settings(SMALL | {"study.factorial.changes": {"up": {"logit_shift": 0.3}}})
    )
    starts = plan(config).starts
    changed = {name: cell for name, cell in starts.items() if cell["change"] == "up"}
    assert len(changed) == 2 * 2
    assert {(cell["rule"], cell["steps"], cell["w2"], cell["boosting"]) for cell in changed.values()} == {
        ("clipped_logit_mean", 3, 0.0, True)
    }
    variants = [suggest(optuna.trial.FixedTrial(cell), config)[0] for cell in starts.values()]
    assert sum(variant.logit_shift == 0.3 for variant in variants) == 4


def test_known_effects_and_factors_are_recovered(small: Tiny):
    """The distance is multiplied by 5 and 8 for the rule at 3 steps, by 1.5 for boosting, and by the replicate."""
    config, section = small[0], small[0].studies.factorial

    def measured(lacking: str = "") -> optuna.Study:
        study = optuna.create_study()
        for name, cell in plan(config).starts.items():
            if name != lacking:
                study.enqueue_trial(cell, user_attrs={"grid": name})

        def known(trial: optuna.Trial) -> float:
            variant, seed = suggest(trial, config)
            fid = (1.0, 2.0)[seed] * (1.5 if variant.boosting else 1.0)
            if variant.rule == RULES[1]:
                fid *= ((5.0, 8.0) if variant.steps == 3 else (0.8, 1.25))[seed]
            for key, value in zip(MEASURED, (0.1, fid, 1.0), strict=True):
                trial.set_user_attr(key, value)
            return fid + 0.2

        study.optimize(known, n_trials=len(study.trials))
        return study

    frame = cell_frame(measured(), config)
    rows = {(row["members"], row["effect"]): row for row in effects(frame, section)}
    assert len(rows) == 2 * 10
    mean = np.sqrt(5 * 8)
    low, high = stats.t.interval(0.95, 1, np.log(mean), stats.sem(np.log([5, 8])))
    # The effects of the rule, of 3 steps and of both are over two levels, at one of which it is 0.8 and 1.25.
    halves = np.exp(stats.t.interval(0.95, 1, np.log(mean) / 2, stats.sem(np.log([5 * 0.8, 8 * 1.25]) / 2)))
    for members in (1, 2):
        assert rows[members, "boosting"]["factor"] == pytest.approx(1.5)
        assert rows[members, "w2 = 0"]["factor"] == pytest.approx(1)
        for name in ("clipped logits", "3 steps", "clipped logits x 3 steps"):
            assert rows[members, name]["factor"] == pytest.approx(np.sqrt(mean))
        clipped = rows[members, "clipped logits"]
        assert [clipped[key] for key in ("low", "high", "n")] == pytest.approx([*halves, 2])
    ratios = {(row["set"], row["members"], row["steps"]): row for row in factors(frame, section)}
    assert len(ratios) == 7
    assert ratios["other", 2, 3]["factor"] == pytest.approx(mean)
    assert ratios["fresh", 1, 2]["factor"] == pytest.approx(1)
    assert [ratios["fresh", 2, 3][key] for key in ("low", "high", "n")] == pytest.approx([np.exp(low), np.exp(high), 2])
    # Without one cell its replicate has no effects, and what is divided by it no ratio.
    frame = cell_frame(measured(lacking="fresh mean_probability 1 3 0.0 True 0"), config)
    known = {(row["members"], row["n"], row["low"] is None) for row in effects(frame, section)}
    assert known == {(1, 1, True), (2, 2, False)}
    without = frame[frame["ratio_to_d0"].isna()]
    assert {*without[["seed", "steps", "w2", "boosting"]].itertuples(index=False, name=None)} == {(0, 3, 0.0, True)}
    assert {row["n"] for row in factors(frame, section) if row["steps"] == 3} == {1}


def test_an_interrupted_study_writes_what_it_has_and_resumes_as_an_uninterrupted_one(small: Tiny, monkeypatch):
    config, layout = small
    original, drawn = GuidedSamples.features, []

    def interrupted(*arguments):
        drawn.append(arguments)
        if len(drawn) == 20:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GuidedSamples, "features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_study("factorial", config, layout, None, False)
    begun = json.loads((layout.study / "factorial.json").read_text())
    assert begun["cells"] == 74 - begun["missing"] == 19
    summary = {"trials": 74, "cells": 74, "missing": 0, "replicates": 2}
    assert run_study("factorial", config, layout, None, False) == summary
    rows = json.loads((layout.report / "reproduction.json").read_text())
    assert len(rows) == 74
    assert len(table(layout.study / "factorial.csv")) == 20
    assert (layout.study / "factorial_law.png").read_bytes().startswith(b"\x89PNG")
    before = {path.name: path.read_bytes() for path in layout.study.iterdir()}
    assert run_study("factorial", config, layout, None, False) == summary
    assert {path.name: path.read_bytes() for path in layout.study.iterdir()} == before
    # A cell does not depend on what was run before it; its replicate's networks sample it.
    cell = dict(zip(CELL, ("fresh", "clipped_logit_mean", 2, 3, 2.0, False, 1), strict=True))
    variant, _ = suggest(optuna.trial.FixedTrial(cell), config)
    assert variant.eps_scale == config.sampler.eps_scale == 1.001
    samples = GuidedSamples(config, layout.replicates(2)[1])
    (features,) = samples.features(variant, replace(config.guided, images=12, seed_start=3_000_000, batch_size=12))
    (row,) = [row for row in rows if cell.items() <= row.items()]
    assert frechet_influence(features, samples.reference)[0] == pytest.approx(row["fid"], rel=1e-6)
    assert debiased_distance(features, samples.reference) == pytest.approx(row["fid_debiased"], rel=1e-4)
