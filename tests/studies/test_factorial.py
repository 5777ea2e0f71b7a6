"""Study `factorial`: which cells it samples and how, known effects, and its resumption."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import optuna
import pytest
import torch
from scipy import stats
from scipy.special import expit

from dguide.studies import trials
from dguide.studies.common import GuidedSamples
from dguide.studies.factorial import (
    CELL,
    RULES,
    cell_frame,
    effects_of_cells,
    factors,
    planned_cells,
    pooled_effects,
    share_and_amplification,
    suggest,
)
from dguide.studies.trials import run_study
from discriminator_guidance.metrics.distances import debiased_distance, frechet_influence
from discriminator_guidance.sampling.guidance import LOG_RATIO_BOUND, clipped_logit_mean
from tests.stages.conftest import Tiny, load, save_untrained, tiny_settings, write_params
from tests.studies.conftest import table

SETS = {"fresh": ["d0", "d1"], "other": ["d1", "d0"]}
SMALL = {"replicates": 2, "sampler.eps_scale": 1.001, "study.factorial.sets": SETS, "study.factorial.images": 12,
         "study.factorial.steps": [2, 3], "study.factorial.more_steps": [4]}  # fmt: skip


@pytest.fixture
def small(tiny: Tiny) -> Tiny:
    """A tiny study of two replicates with heads of their own."""
    config, layout = write_params(tiny[1].root, tiny_settings(SMALL))
    kept = [layout.model("score"), layout.model("extractor"), *map(layout.discriminator, config.members)]
    for folder, replicate in product(kept, ("r0", "r1")):
        shutil.copytree(folder, folder / replicate, ignore=shutil.ignore_patterns("r0", "r1"))
    for number, name in enumerate(config.members):
        head = load(layout, f"discriminator/{name}")
        save_untrained(layout.discriminator(name) / "r1", head, head.arguments, seed=number + 1)
    return config, layout


def test_every_cell_is_planned_once_and_the_reproductions_corner_first(small: Tiny):
    cells = [tuple(cell[key] for key in CELL) for cell in planned_cells(small[0]).values()]
    assert len(set(cells)) == len(cells) == 2 * (32 + 4 + 1)
    corner, added = cells[:24], cells[24:26]
    assert {*corner} == {*product(["fresh"], RULES, (1, 2), (2, 3, 4), [0.0], [True], (0, 1))}
    assert added == [("other", "clipped_logit_mean", 2, 3, 0.0, True, seed) for seed in (0, 1)]
    cube = product(["fresh"], RULES, (1, 2), (2, 3), (0.0, 2.0), (False, True), (0, 1))
    assert {*cube} == {cell for cell in cells if cell[3] != 4 and cell[0] == "fresh"}


def test_pooled_effects_are_those_of_a_regression_with_blocks():
    rng, names = np.random.default_rng(0), ["a", "b", "c"]
    levels = np.array([*product((-1, 1), repeat=3)])
    response = rng.normal(size=(4, 8)) + rng.normal(size=(4, 1))
    terms = [(0,), (1,), (2,), *combinations(range(3), 2)]
    columns = np.tile(np.stack([levels[:, term].prod(axis=1) for term in terms], axis=1), (4, 1))
    design = np.hstack([columns, np.kron(np.eye(4), np.ones((8, 1)))])
    fitted, (left,), *_ = np.linalg.lstsq(design, response.ravel())
    freedom = 32 - 10
    error = np.sqrt(left / freedom * np.diag(np.linalg.inv(design.T @ design)))[:6]
    low, high = stats.t.interval(0.95, freedom, fitted[:6], error)
    effects = pooled_effects(names, response)
    assert [*effects["effect"]] == ["a", "b", "c", "a x b", "a x c", "b x c"]
    for key, expected in (("factor", fitted[:6]), ("low", low), ("high", high)):
        # In a fit of -1 and +1 a coefficient is half of the difference between the levels.
        np.testing.assert_allclose(effects[key], np.exp(2 * expected))
    alone = [pooled_effects(names, response[[block]])["factor"] for block in range(4)]
    over_blocks = np.exp(stats.ttest_1samp(np.log(alone), 0).confidence_interval())
    np.testing.assert_allclose(effects[["seeds_low", "seeds_high"]].T, over_blocks)


def test_known_effects_and_factors_are_recovered(small: Tiny):
    """The distance is multiplied by 5 and 8 for the rule at 3 steps, by 1.5 for boosting, and by the replicate."""
    config, section = small[0], small[0].studies.factorial

    def measured(lacking: str = "") -> optuna.Study:
        study = optuna.create_study()
        for name, cell in planned_cells(config).items():
            if name != lacking:
                study.enqueue_trial(cell, user_attrs={"grid": name})

        def known(trial: optuna.Trial) -> float:
            variant, seed = suggest(trial, config)
            clipped = variant.rule == RULES[1]
            fid = (1.0, 2.0)[seed] * (1.5 if variant.boosting else 1.0)
            fid *= ((5.0, 8.0) if variant.steps == 3 else (0.8, 1.25))[seed] if clipped else 1.0
            values = {"standard_error": 0.1, "fid_debiased": fid}
            values |= {"share_in_unit": 0.5, "amplification": (20.0, 60.0)[seed]} if clipped else {}
            for key, value in values.items():
                trial.set_user_attr(key, value)
            return fid + 0.2

        study.optimize(known, n_trials=len(study.trials))
        return study

    frame = cell_frame(measured(), config)
    effects = effects_of_cells(frame, section).set_index(["members", "effect"])
    assert len(effects) == 2 * 10
    mean = np.sqrt(5 * 8)
    for members in (1, 2):
        assert effects.loc[(members, "boosting"), "factor"] == pytest.approx(1.5)
        assert effects.loc[(members, "w2 = 0"), "factor"] == pytest.approx(1)
        for name in ("clipped logits", "3 steps", "clipped logits x 3 steps"):
            row = effects.loc[(members, name)]
            assert row["factor"] == pytest.approx(np.sqrt(mean))
            assert 1 < row["low"] < row["high"]
    ratios = {(row["set"], row["members"], row["steps"]): row for row in factors(frame, section)}
    assert len(ratios) == 7
    assert ratios["other", 2, 3]["factor"] == pytest.approx(mean)
    assert ratios["fresh", 1, 2]["factor"] == pytest.approx(1)
    low, high = stats.t.interval(0.95, 1, np.log(mean), stats.sem(np.log([5, 8])))
    assert [ratios["fresh", 2, 3][key] for key in ("low", "high", "n")] == pytest.approx([np.exp(low), np.exp(high), 2])
    assert ratios["fresh", 2, 3]["spearman"] == pytest.approx(1), "amplification and factor grow together"
    # Without one cell its replicate has no effects, and what is divided by it no ratio.
    frame = cell_frame(measured(lacking="fresh mean_probability 1 3 0.0 True 0"), config)
    replicates = effects_of_cells(frame, section).groupby("members")["replicates"].unique()
    assert replicates.to_dict() == {1: [1], 2: [2]}
    without = frame[frame["ratio_to_d0"].isna()]
    assert {*without[["seed", "steps", "w2", "boosting"]].itertuples(index=False, name=None)} == {(0, 3, 0.0, True)}
    assert {row["n"] for row in factors(frame, section) if row["steps"] == 3} == {1}


def test_an_interrupted_study_writes_what_it_has_and_resumes_as_an_uninterrupted_one(small: Tiny, monkeypatch):
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
            run_study("factorial", config, layout, None, False)
    begun = json.loads((layout.study / "factorial.json").read_text())
    assert 0 < begun["cells"] == 74 - begun["missing"] < 20
    summary = {"trials": 74, "cells": 74, "missing": 0, "replicates": 2}
    assert run_study("factorial", config, layout, None, False) == summary
    rows = json.loads((layout.report / "reproduction.json").read_text())
    assert len(rows) == 74
    assert len(table(layout.study / "factorial_mechanism.csv")) == 2 * 2 * 2 * 4
    assert len(table(layout.study / "factorial.csv")) == 20
    assert (layout.study / "factorial_steps.png").read_bytes().startswith(b"\x89PNG")
    before = {path.name: path.read_bytes() for path in layout.study.iterdir()}
    assert run_study("factorial", config, layout, None, False) == summary
    assert {path.name: path.read_bytes() for path in layout.study.iterdir()} == before
    # A cell does not depend on what was run before it; its replicate's networks sample it.
    cell = dict(zip(CELL, ("fresh", "clipped_logit_mean", 2, 3, 2.0, False, 1), strict=True))
    variant, _ = suggest(optuna.trial.FixedTrial(cell), config)
    assert variant.eps_scale == config.sampler.eps_scale == 1.001
    samples = GuidedSamples(config, layout.replicates(2)[1])
    span = replace(config.guided, images=12, seed_start=3_000_000, batch_size=12)
    (batch,) = samples.batches(variant, span, trajectory=True)
    (row,) = [row for row in rows if cell.items() <= row.items()]
    assert frechet_influence(batch["features"], samples.reference)[0] == pytest.approx(row["fid"], rel=1e-6)
    assert debiased_distance(batch["features"], samples.reference) == pytest.approx(row["fid_debiased"], rel=1e-4)
    free = np.abs(batch["log_ratio"][0]) < LOG_RATIO_BOUND - 1e-3  # at sigma = 80; the next, 2.5, is below VP time 0.5
    assert row["share_in_unit"] == pytest.approx(free.mean(), abs=1e-6)


def test_share_and_amplification_are_those_of_the_rules_gradient():
    logits = torch.linspace(-1, 2, 301, dtype=torch.float64, requires_grad=True)
    log_ratio = clipped_logit_mean(logits[None], torch.ones(1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_ratio.sum(), logits)
    inside = (logits > 0.001) & (logits < 0.999)
    expected = [inside.double().mean().item(), gradient[inside].mean().item()]
    # From logits, and from log ratios as a sampler keeps them.
    for mistaken in (logits.detach().numpy(), expit(log_ratio.detach().float().numpy().astype(np.float64))):
        assert [*share_and_amplification(mistaken).values()] == pytest.approx(expected, rel=1e-5)
    assert share_and_amplification(np.array([-0.1, 0.0, 1.0, 5.0])) == {"share_in_unit": 0.0, "amplification": None}
