"""Study `factorial`: which cells it samples and how, known factors, and its resumption."""

import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import optuna
import pytest
from scipy import stats

from dguide.studies.factorial import CELL, MEASURED, RULES, cell_frame, factors, plan, suggest
from dguide.studies.study import GuidedSamples, run_study
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from tests.stages.conftest import Tiny, load, save_untrained, tiny_settings, write_params

SETS = {"fresh": ["d0", "d1"], "other": ["d1", "d0"]}
SMALL = {"replicates": 2, "sampler.eps_scale": 1.001, "study.factorial.sets": SETS, "study.factorial.images": 12,
         "study.factorial.steps": [3, 2, 4], "study.factorial.changes": {"up": {"logit_shift": 0.3}}}  # fmt: skip


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


def test_every_cell_is_planned_once_and_both_rules_first(small: Tiny):
    cells = [tuple(cell[key] for key in CELL) for cell in plan(small[0]).starts.values()]
    assert {*cells[:24]} == {*product(["fresh"], RULES, (1, 2), (2, 3, 4), ["none"], (0, 1))}
    assert cells[24:26] == [("other", "clipped_logit_mean", 2, 3, "none", seed) for seed in (0, 1)]
    assert {*cells[26:]} == {*product(["fresh"], RULES[1:], (1, 2), [3], ["up"], (0, 1))}
    assert len(cells) == 30


def test_a_cell_is_sampled_as_the_reproduction_but_for_its_change(small: Tiny):
    for cell in plan(small[0]).starts.values():
        variant, seed = suggest(optuna.trial.FixedTrial(cell), small[0])
        assert (variant.w1, variant.w2, variant.boosting, variant.eps_scale) == (2.0, 0.0, True, 1.001)
        assert (variant.rule, len(variant.members), seed) == (cell["rule"], cell["members"], cell["seed"])
        assert variant.logit_shift == (0.3 if cell["change"] == "up" else 0.0)


def test_known_factors_are_recovered(small: Tiny):
    """The distance is multiplied by 5 and 8 for the rule at 3 steps, by 0.8 and 1.25 at others, by the replicate."""
    config = small[0]

    def measured(lacking: str = "") -> optuna.Study:
        study = optuna.create_study()
        for name, cell in plan(config).starts.items():
            if name != lacking:
                study.enqueue_trial(cell, user_attrs={"grid": name})

        def known(trial: optuna.Trial) -> float:
            variant, seed = suggest(trial, config)
            fid = (1.0, 2.0)[seed]
            if variant.rule == RULES[1]:
                fid *= ((5.0, 8.0) if variant.steps == 3 else (0.8, 1.25))[seed]
            for key, value in zip(MEASURED, (0.1, fid, 1.0), strict=True):
                trial.set_user_attr(key, value)
            return fid + 0.2

        study.optimize(known, n_trials=len(study.trials))
        return study

    mean = np.sqrt(5 * 8)
    low, high = stats.t.interval(0.95, 1, np.log(mean), stats.sem(np.log([5, 8])))
    rows = {(row["set"], row["members"], row["steps"]): row for row in factors(cell_frame(measured(), config))}
    assert len(rows) == 7
    assert rows["other", 2, 3]["factor"] == pytest.approx(mean)
    assert rows["fresh", 1, 2]["factor"] == pytest.approx(1)
    assert [rows["fresh", 2, 3][key] for key in ("low", "high", "n")] == pytest.approx([np.exp(low), np.exp(high), 2])
    # Without a cell nothing can be divided by it.
    frame = cell_frame(measured(lacking="fresh mean_probability 1 3 none 0"), config)
    without = frame[frame["ratio_to_d0"].isna()]
    assert {*without[["seed", "steps"]].itertuples(index=False, name=None)} == {(0, 3)}
    assert {row["n"] for row in factors(frame) if row["steps"] == 3} == {1}


def test_an_interrupted_study_writes_what_it_has_and_resumes_as_an_uninterrupted_one(small: Tiny, monkeypatch):
    config, layout = small
    original, drawn = GuidedSamples.features, []

    def interrupted(*arguments):
        drawn.append(arguments)
        if len(drawn) == 10:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GuidedSamples, "features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_study("factorial", config, layout, None, False)
    begun = json.loads((layout.study / "factorial.json").read_text())
    assert begun["cells"] == 30 - begun["missing"] == 9
    summary = {"trials": 30, "cells": 30, "missing": 0, "replicates": 2}
    assert run_study("factorial", config, layout, None, False) == summary
    rows = json.loads((layout.report / "reproduction.json").read_text())
    assert len(rows) == 30
    assert (layout.study / "factorial_law.png").read_bytes().startswith(b"\x89PNG")
    before = {path.name: path.read_bytes() for path in layout.study.iterdir()}
    assert run_study("factorial", config, layout, None, False) == summary
    assert {path.name: path.read_bytes() for path in layout.study.iterdir()} == before
    # A cell does not depend on what was run before it; its replicate's networks sample it.
    cell = dict(zip(CELL, ("fresh", "clipped_logit_mean", 2, 3, "up", 1), strict=True))
    variant, _ = suggest(optuna.trial.FixedTrial(cell), config)
    samples = GuidedSamples(config, layout.replicates(2)[1])
    (features,) = samples.features(variant, replace(config.guided, images=12, seed_start=3_000_000, batch_size=12))
    (row,) = [row for row in rows if cell.items() <= row.items()]
    assert frechet_influence(features, samples.reference)[0] == pytest.approx(row["fid"], rel=1e-6)
    assert debiased_distance(features, samples.reference) == pytest.approx(row["fid_debiased"], rel=1e-4)
