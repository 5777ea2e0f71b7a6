"""Study `discriminator` on the tiny study: Table 2 first, trials that are what the stage makes of them, the winner."""

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.pruners import PercentilePruner

from dguide.settings import Layout
from dguide.studies.discriminator import plan, suggest
from dguide.studies.study import GuidedSamples, run_study, value_settings
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.files import fingerprint
from discriminator_guidance.metrics.distances import frechet_influence
from discriminator_guidance.metrics.features import extract_features
from tests.settings.settings import read
from tests.stages.conftest import Tiny, run_stage, tiny_settings, write_params
from tests.studies.conftest import rows

TRIALS = 6
D0 = tiny_settings()["members"]["d0"]


@pytest.fixture(scope="module")
def searched(search) -> Tiny:
    """A tiny study with a search."""
    return search("discriminator", TRIALS)


def record(layout: Layout) -> dict:
    return json.loads((layout.study / "discriminator.json").read_text())


def test_the_rows_of_table_2_come_first_and_are_trained_as_they_are(searched: Tiny):
    config, layout = searched
    trials = rows(layout, "discriminator")[:3]
    assert [row["grid"] for row in trials] == ["D0", "D1", ""]
    assert [float(row["params_learning_rate"]) for row in trials[:2]] == [3e-4, 1e-3]
    points = plan(config).starts
    assert points["D1"]["model_channels"] == config.discriminator.network.model_channels
    member = suggest(optuna.trial.FixedTrial(points["D0"]), config)
    assert replace(member, seed=config.members["d0"].seed) == replace(config.members["d0"], published=None)


def test_the_winner_guides_best_among_the_finalists(searched: Tiny):
    config, layout = searched
    trials, written = rows(layout, "discriminator"), record(layout)
    complete = sorted((row for row in trials if row["state"] == "complete"), key=lambda row: float(row["value"]))
    finalists = sorted(complete[: config.studies.discriminator.finalists], key=lambda row: float(row["fid"]))
    assert [entry["trial"] for entry in written["finalists"]] == [int(row["number"]) for row in finalists]
    assert written["winner"]["trial"] == int(finalists[0]["number"])
    (start,) = [row for row in trials if row["grid"] == "D0"]
    assert written["winner"]["values"]["start_fid"] == float(start["fid"])
    assert written["n_trials"] == len(trials) == TRIALS
    for chart in ("history", "importances"):
        assert (layout.study / f"discriminator_{chart}.png").read_bytes().startswith(b"\x89PNG")


def test_the_stages_make_the_same_of_the_winner(searched: Tiny):
    """Its row, trained and sampled by the stages on the tuning range, has its loss and its distance."""
    config, layout = searched
    written, tuning = record(layout), config.studies.tuning
    span = {"images": tuning.images, "seed": tuning.seed, "seed_start": tuning.seed_start, "batch_size": 8}
    changes = {"guided": tiny_settings()["guided"] | span, "study.tuning.seed_start": 5_000_000}
    changes |= {f"{table}.tuned": row["tuned"] for table, row in written["rows"].items()}
    promoted, _ = write_params(layout.root, tiny_settings(changes))
    run_stage("discriminator", (promoted, layout), "tuned")
    run_stage("guided", (promoted, layout), "tuned")

    row = rows(layout, "discriminator")[written["winner"]["trial"]]
    history = np.genfromtxt(layout.discriminator_report("tuned") / "history.csv", delimiter=",", names=True)
    assert float(row["validation_loss"]) == pytest.approx(history["validation_loss"][-1], rel=1e-6)
    parts = float(row["validation_loss"]), float(row["calibration_error"])
    assert float(row["value"]) == pytest.approx(sum(parts), rel=1e-6)
    samples = GuidedSamples(promoted, layout)
    images = np.load(layout.guided("tuned") / "samples.npz")["images"]
    fid, _ = frechet_influence(extract_features(samples.network.features, images, 8, "cpu"), samples.reference)
    assert float(row["fid"]) == pytest.approx(fid, rel=1e-4)


def test_a_trial_behind_the_others_is_pruned_but_no_row_of_table_2(tiny: Tiny, monkeypatch):
    always = PercentilePruner(0.01, n_startup_trials=0)
    monkeypatch.setattr("dguide.studies.discriminator.MedianPruner", lambda **_: always)
    config, layout = tiny
    run_study("discriminator", config, layout, 7, False)
    states = [(row["state"], row["grid"]) for row in rows(layout, "discriminator")]
    assert ("pruned", "") in states
    assert {state for state, grid in states if grid} == {"complete"}
    assert len(states) == 7


def test_a_whole_network_that_counts_steps_is_searched_for_its_width_and_keeps_its_steps(tiny: Tiny):
    whole = {"kind": "whole", "epochs": None, "steps": 4, "row_steps": 2, "importance_sampling": 0.5}
    changes = {"members.d0": D0 | whole, "study.start": "d0", "study.discriminator.importance_sampling": [0.5, True]}
    config, layout = write_params(tiny[1].root, tiny_settings(changes))
    run_study("discriminator", config, layout, 2, False)
    trials, tuned = rows(layout, "discriminator"), record(layout)["rows"]["members"]["tuned"]
    assert not {"params_epochs", "params_dropout", "params_num_res_blocks"} & set(trials[1])
    assert (tuned["kind"], tuned["steps"], tuned["epochs"]) == ("whole", 4, None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"study.discriminator.epochs": [1, 2]}, r"study\.discriminator\.epochs is .* and leaves out 3 of member d0"),
        ({"members.d1": D0 | {"epochs": None, "steps": 4}}, r"members of study\.start differ in steps: d1"),
    ],
)
def test_a_member_that_is_not_searched_is_refused_before_anything_runs(tiny: Tiny, changes: dict, complaint: str):
    config, layout = write_params(tiny[1].root, tiny_settings(changes))
    with pytest.raises(ConfigError, match=complaint):
        run_study("discriminator", config, layout, 3, False)
    assert not layout.study.exists()


def test_equal_members_begin_a_search_once_and_another_member_begins_another():
    assert [*plan(read(tiny_settings({"members.d1": D0}))).starts] == ["D0"]
    members = tiny_settings()["members"]
    whole = members | {"d0": members["d0"] | {"kind": "whole"}}
    studies = [read(tiny_settings(change)) for change in ({}, {"members": whole}, {"discriminator.gain": 1.68})]
    assert len({fingerprint(value_settings(config, "discriminator")) for config in studies}) == 3
