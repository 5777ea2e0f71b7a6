"""Study `factorial`: which cells it samples and how, their means, and its resumption."""

import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import optuna
import pandas as pd
import pytest

from dguide.stages.guided import open_networks
from dguide.studies.factorial import CELL, MEASURED, RULES, plan, suggest, variant_displacement, write_results
from dguide.studies.study import GuidedSamples, run_study
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from tests.stages.conftest import Tiny, load, prepare_study, save_untrained, tiny_settings, write_params

SETS = {"fresh": ["d0", "d1"], "other": ["d1", "d0"]}
SMALL = {"replicates": 2, "sampler.eps_scale": 1.001, "study.factorial.sets": SETS, "study.factorial.images": 12,
         "study.factorial.steps": [3, 2], "study.factorial.changes": {"up": {"logit_shift": 0.3}},
         "fid_network.name": r"a $\frac$ b"}  # fmt: skip


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
    assert {*cells[:16]} == {*product(["fresh"], RULES, (1, 2), (2, 3), ["none"], (0, 1))}
    assert cells[16:18] == [("other", "clipped_logit_mean", 2, 3, "none", seed) for seed in (0, 1)]
    assert {*cells[18:]} == {*product(["fresh"], RULES[1:], (1, 2), [3], ["up"], (0, 1))}
    assert len(cells) == 22


def test_a_cell_is_sampled_as_the_reproduction_but_for_its_change(small: Tiny):
    for cell in plan(small[0]).starts.values():
        variant, seed = suggest(optuna.trial.FixedTrial(cell), small[0])
        assert (variant.w1, variant.w2, variant.boosting, variant.eps_scale) == (2.0, 0.0, True, 1.001)
        assert (variant.rule, len(variant.members), seed) == (cell["rule"], cell["members"], cell["seed"])
        assert variant.logit_shift == (0.3 if cell["change"] == "up" else 0.0)


def test_cells_are_averaged_over_replicates(small: Tiny):
    """By the rule FID is 5 and 8 in the replicates; a cell that is missing in one has the value of the other."""
    (config, layout), study = small, optuna.create_study()
    for name, cell in plan(config).starts.items():
        if name != "fresh clipped_logit_mean 1 2 none 0":
            study.enqueue_trial(cell, user_attrs={"grid": name})

    def known(trial: optuna.Trial) -> float:
        variant, seed = suggest(trial, config)
        clipped = variant.rule == RULES[1]
        for key, value in zip(MEASURED, (0.1, 1.0, (1.0, 2.0)[seed] if clipped else None), strict=True):
            trial.set_user_attr(key, value)
        return (5.0, 8.0)[seed] if clipped else 1.0

    study.optimize(known, n_trials=len(study.trials))
    write_results(study, config, layout, plan(config))
    rows = pd.read_csv(layout.study / "factorial.csv").groupby([*CELL[:-1]])[["fid", "displacement"]].mean()
    assert len(rows) == 11
    assert rows.loc["other", "clipped_logit_mean", 2, 3, "none"].tolist() == [6.5, 1.5]
    assert rows.loc["fresh", "clipped_logit_mean", 1, 2, "none"].tolist() == [8.0, 2.0]
    fid, displacement = rows.loc["fresh", "mean_probability", 1, 2, "none"]
    assert fid == 1.0
    assert np.isnan(displacement)


def test_classes_and_windows_without_a_noise_level_have_a_displacement(tmp_path):
    config, layout = prepare_study(tmp_path, tiny_settings({"cond": True}))
    row = replace(config.variants["mean_prob"], rule=RULES[1])
    networks = open_networks(config, layout, row)
    assert variant_displacement(config, layout, networks, row) > 0
    assert variant_displacement(config, layout, networks, replace(row, window=(0.97, 0.98))) == 0


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
    assert begun["cells"] == 22 - begun["missing"] == 9
    summary = {"trials": 22, "cells": 22, "missing": 0, "replicates": 2}
    assert run_study("factorial", config, layout, None, False) == summary
    rows = pd.read_csv(layout.study / "factorial.csv").to_dict("records")
    assert len(rows) == 22
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
