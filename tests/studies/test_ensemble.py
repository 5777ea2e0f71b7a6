"""Study `ensemble`: what a trial stands for, and a tiny search from end to end."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.studies.ensemble import (
    GRID,
    LEAST_U,
    PLAIN_MEAN,
    ensemble_plan,
    starting_points,
    variant_of,
)
from discriminator_guidance.studies.ensemble import run as run_search
from discriminator_guidance.studies.tuning_range import TuningRange, quiet
from tests.conftest import Copied
from tests.stages.conftest import Study, tiny_settings

MEMBERS = ("d0", "d1", "d2")
PARAMS = {
    "u_d0": 0.5,
    "u_d1": 0.25,
    "u_d2": 1.0,
    "rule": "mean_logit",
    "w1": 1.23456,
    "w2": 0.5,
    "time_min": 0.0123456,
    "time_max": 0.9,
    "boosting": True,
}


def small_search() -> dict:
    settings = tiny_settings()
    settings["study"]["tuning"] |= {"images": 12, "batch_size": 6}
    settings["study"]["ensemble"]["pruner"] |= {"startup_trials": 1}
    return settings


@pytest.fixture(scope="module")
def project(copied: Copied, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return copied(tmp_path_factory.mktemp("search") / "study", small_search())


def search(project: Study, trials: int, seen: list | None = None) -> optuna.Study:
    told: list = [] if seen is None else seen
    return run_search(project.config, project.context, trials, 1, lambda name, trial: told.append((name, trial.number)))


@pytest.fixture(scope="module")
def searched(project: Study) -> optuna.Study:
    return search(project, 6)


def test_weights_lie_on_the_simplex_and_members_without_weight_are_left_out():
    variant = variant_of(PARAMS, MEMBERS)
    assert variant.members == ("d0", "d1")
    assert variant.weights == (0.333, 0.667)  # -log 1/2 to -log 1/4
    assert (variant.w1, variant.window, variant.boosting) == (1.235, (0.0123, 0.9), True)


def test_any_shares_make_a_variant():
    random = np.random.default_rng(0)
    for _ in range(300):
        shares = {f"u_{name}": float(random.uniform(LEAST_U, 1)) ** 3 for name in MEMBERS}
        variant = variant_of(PARAMS | shares | {"w1": 0.0}, MEMBERS)
        assert sum(variant.weights) == pytest.approx(1, abs=1e-9)
        assert all(weight > 0 for weight in variant.weights)


def test_shares_are_uniform_on_the_simplex():
    random = np.random.default_rng(1)
    shares = 1 - random.uniform(0, 1 - LEAST_U, (4000, 3))
    first = -np.log(shares[:, 0]) / -np.log(shares).sum(axis=1)
    # A coordinate of a uniform point of the triangle lies below x with probability 1 - (1 - x)^2.
    for x in (0.2, 0.5, 0.8):
        assert (first < x).mean() == pytest.approx(1 - (1 - x) ** 2, abs=0.03)


def test_corners_and_centre_of_the_simplex_come_first(project: Study):
    points = starting_points(project.config)
    variants = {point.attrs[GRID]: variant_of(point.params, ("d0", "d1")) for point in points}
    assert list(variants) == [PLAIN_MEAN, "d0", "d1", f"{PLAIN_MEAN}, mean_logit"]
    assert variants[PLAIN_MEAN].weights == "equal"
    assert (variants["d1"].members, variants["d1"].weights) == (("d1",), (1.0,))
    given = project.config.guided.variants["ensemble_probability"]
    assert {(v.w1, v.w2, v.window) for v in variants.values()} == {(given.w1, given.w2, (0.01, 1.0))}


def test_a_search_ends_with_what_it_began_with_whole(searched: optuna.Study):
    assert len(searched.trials) == 6
    begun = [trial for trial in searched.trials if GRID in trial.user_attrs]
    assert [trial.state for trial in begun] == [optuna.trial.TrialState.COMPLETE] * 4
    assert all(len(trial.intermediate_values) == 2 for trial in begun)
    for trial in searched.trials:
        assert math.isfinite(trial.user_attrs["test_bce"])
        assert trial.value == list(trial.intermediate_values.values())[-1]


def test_scores_of_the_combined_discriminator_need_no_network(project: Study, searched: optuna.Study):
    alone = next(trial for trial in searched.trials if trial.user_attrs.get(GRID) == "d0")
    tested = np.load(project.layout.discriminator("d0") / "test_logits.npz")
    logits, labels = tested["logits"].astype(float), tested["labels"]
    assert alone.user_attrs["test_bce"] == pytest.approx(np.mean(np.logaddexp(0, logits) - labels * logits), rel=1e-6)


def test_a_trial_is_what_the_pipeline_makes_of_its_variant(project: Study, searched: optuna.Study, tmp_path: Path):
    """The stages, told a trial's row and the tuning range, give its distance: what is promoted was tried."""
    tuning = TuningRange(project.config, quiet(project.layout))
    found = next(trial for trial in searched.trials if GRID not in trial.user_attrs)
    variant = variant_of(found.params, ("d0", "d1"))
    batches = [*tuning.features(variant, [tuning.head(name) for name in variant.members])]
    steps = [tuning.distance(batches[: step + 1]) for step in found.intermediate_values]
    assert steps == pytest.approx(list(found.intermediate_values.values()), rel=1e-9)

    again = Study(tmp_path / "again", small_search())
    shutil.copytree(project.root, again.root)
    given = again.settings["study"]["tuning"]
    again.settings["guided"] |= {key: given[key] for key in ("seed", "seed_start", "images", "batch_size")}
    again.settings["study"]["tuning"] = given | {"seed_start": 9_000_000}
    again.settings["evaluation"] |= {"kid_subset_size": 4}
    again.settings["guided"]["variants"]["d0"] = variant.model_dump(mode="json", exclude_none=True)
    for stage, name in (("guided", "edm"), ("guided", "d0"), ("evaluation", "d0")):
        again.run(stage, name)
    evaluated = read_json(again.layout.evaluation("d0"), "evaluation")["fid"]
    assert evaluated == pytest.approx(tuning.distance(batches), rel=1e-6)


def test_a_later_call_goes_on_and_tells_only_its_own_trials(project: Study, searched: optuna.Study):
    seen: list = []
    longer = search(project, 7, seen)
    assert seen == [("tiny-ensemble", 6)]
    assert [trial.params for trial in longer.trials[:6]] == [trial.params for trial in searched.trials[:6]]
    assert search(project, 7, seen).trials[-1].number == 6
    assert len(seen) == 1


def test_a_search_without_room_for_its_start_is_refused(project: Study):
    with pytest.raises(ConfigError, match="room for the 4 trials every study begins with; got --trials 3; ask for 4"):
        search(project, 3)


def test_tuning_samples_are_neither_fakes_nor_evaluated_ones(project: Study):
    tuning, guided, fake = project.config.study.tuning, project.config.guided, project.config.fake
    drawn = set(range(tuning.seed_start, tuning.seed_start + tuning.images))
    assert not drawn & set(range(guided.seed_start, guided.seed_start + guided.images))
    assert not drawn & set(range(fake.seed_start, fake.seed_start + fake.images))


def test_distances_of_one_variant_are_the_same_every_time(project: Study):
    tuning = TuningRange(project.config, quiet(project.layout))
    variant = project.config.guided.variants["ensemble_probability"]
    heads = [tuning.head(name) for name in variant.members]
    first, second = ([*tuning.features(variant, heads)] for _ in range(2))
    assert tuning.distance(first) == tuning.distance(second)
    assert [len(batch) for batch in first] == [6, 6]
    unguided = [*tuning.features(project.config.guided.variants["edm"], ())]
    assert tuning.distance(unguided) != tuning.distance(first)


def test_missing_weights_are_named_before_any_trial(project: Study, tmp_path: Path):
    empty = Study(tmp_path, small_search())
    with pytest.raises(InputError, match=r"score/model\.safetensors.*`dvc repro` before the study"):
        ensemble_plan(empty.config, empty.layout)
