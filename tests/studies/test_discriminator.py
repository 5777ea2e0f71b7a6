"""Study `discriminator`: rows of Table 2 first, trials that are what the stage makes of them, finalists, promotion."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from discriminator_guidance.artifacts.files import read_json, sha256
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.report.study_record import best_trial, front_of, trials_of
from discriminator_guidance.studies.discriminator import run, search_plan, starting_points
from discriminator_guidance.studies.discriminator_results import write_discriminator_results
from discriminator_guidance.studies.finalists import SEARCHED
from discriminator_guidance.studies.trial_heads import (
    GRID,
    member_of,
    open_trial_bench,
    params_of,
    train_trial,
    weights_folder,
)
from discriminator_guidance.studies.trial_runs import trial_run
from tests.conftest import Copied
from tests.stages.conftest import Study, tiny_settings

FOUND = {
    "epochs": 3,
    "learning_rate": 1.23456e-3,
    "weight_decay": 1e-12,
    "t_min": 0.0123456,
    "importance_sampling": False,
    "model_channels": 16,
    "num_res_blocks": 2,
    "dropout": 0.1,
    "label_smoothing": 0.05,
    "bagging": 0.6,
}


def small_search() -> dict:
    settings = tiny_settings()
    settings["study"]["tuning"] |= {"images": 12, "batch_size": 6}
    settings["study"]["discriminator"] |= {"epochs": [2, 5], "model_channels": [8, 16], "finalists": 2}
    settings["study"]["discriminator"]["pruner"] |= {"startup_trials": 2, "warmup_epochs": 2}
    return settings


@pytest.fixture(scope="module")
def project(copied: Copied, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return copied(tmp_path_factory.mktemp("search") / "study", small_search())


def search(project: Study, trials: int, seen: list | None = None) -> tuple[optuna.Study, optuna.Study]:
    told: list = [] if seen is None else seen
    return run(project.config, project.context, trials, 1, lambda name, trial: told.append((name, trial.number)))


@pytest.fixture(scope="module")
def searched(project: Study) -> tuple[optuna.Study, optuna.Study]:
    return search(project, 6)


def test_a_trial_is_a_row_that_differs_no_more_than_it_has_to(project: Study):
    settings, ranges = project.config.discriminator, project.config.study.discriminator
    row = member_of(FOUND, settings, ranges, 20)
    assert (row.seed, row.learning_rate, row.weight_decay, row.t_min) == (20, 1.23e-3, 0.0, 0.0123)
    assert (row.differs.bagging, row.differs.network.num_head_channels) == (0.6, settings.network.num_head_channels)
    assert (row.differs.init, row.differs.checkpoint) == (None, None)
    first = member_of(params_of(settings, ranges, "d0"), settings, ranges, settings.members["d0"].seed)
    assert first == settings.members["d0"]


def test_a_trial_starts_afresh_and_uses_its_own_last_weights(project: Study):
    settings = project.config.discriminator.model_copy(update={"init": "sequential", "checkpoint": 40})
    row = member_of(FOUND, settings, project.config.study.discriminator, 20)
    assert (row.differs.init, row.differs.checkpoint) == ("fresh", "last")


def test_rows_of_table_2_come_first_tagged_and_whole(searched: tuple[optuna.Study, optuna.Study]):
    found, _ = searched
    trials = found.trials[:6]
    assert [trial.user_attrs.get(GRID) for trial in trials] == ["D0", "D1", None, None, None, None]
    for trial in trials[:2]:
        assert trial.state == TrialState.COMPLETE
        assert len(trial.intermediate_values) == trial.params["epochs"] == 4
    for trial in trials:
        attrs = trial.user_attrs
        assert trial.value == pytest.approx(attrs["bce"] + attrs["calibration_error"])
        assert attrs["epochs_trained"] == len(trial.intermediate_values)


def test_rows_outside_what_is_searched_are_refused(project: Study):
    narrow = Study(project.root, small_search())
    narrow.settings["study"]["discriminator"]["epochs"] = [5, 9]
    with pytest.raises(ConfigError, match=r"study\.discriminator\.epochs to hold 4 of discriminator member d0; got "):
        starting_points(narrow.config)
    with pytest.raises(ConfigError, match="room for the 2 rows of Table 2"):
        search(project, 1)


def test_members_that_are_no_rows_of_table_2_are_not_enqueued(project: Study):
    other = Study(project.root, small_search())
    rows = other.settings["discriminator"]["members"]
    other.settings["discriminator"]["members"] = rows | {
        "bagged": rows["d0"] | {"differs": {"bagging": 0.5}},
        "released": {"path": "somewhere.pt"},
        "tuned": rows["d1"],
    }
    assert [point.attrs[GRID] for point in starting_points(other.config)] == ["D0", "D1"]


def test_a_trial_is_what_the_stage_makes_of_its_row(project: Study, searched, tmp_path: Path):
    """The stage, told the row of a trial, writes the same weights: what is promoted was tried."""
    found, _ = searched
    trial = next(trial for trial in found.trials if GRID not in trial.user_attrs and trial.state == TrialState.COMPLETE)
    again = Study(tmp_path / "again", small_search())
    shutil.copytree(project.root, again.root)
    again.settings["discriminator"]["members"] = {"d0": trial.user_attrs["member"], "d1": trial.user_attrs["member"]}
    again.settings["factorial"]["members"] = ["d0", "d1"]
    again.run("discriminator", "d0")
    made = (again.layout.discriminator("d0") / "model.safetensors").read_bytes()
    assert made == (weights_folder(project.layout, trial.number) / "model.safetensors").read_bytes()
    validated = read_json(again.layout.discriminator_reports / "d0" / "metrics.json", "discriminator")
    assert validated["validation_loss"] == pytest.approx(trial.user_attrs["bce"], rel=1e-5)


def test_an_interrupted_training_goes_on_and_tells_every_epoch(project: Study):
    settings, ranges = project.config.discriminator, project.config.study.discriminator
    row, bench = (
        member_of(FOUND | {"epochs": 5}, settings, ranges, 21),
        open_trial_bench(project.config, project.layout),
    )
    whole: list = []
    undisturbed = train_trial(bench, row, lambda epoch, scores: whole.append((epoch, scores)))

    def interrupting(epoch: int, scores: dict) -> None:
        if epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_trial(bench, row, interrupting)
    assert len([*project.layout.partial.glob("discriminator-study-*")]) == 1
    told: list = []
    resumed = train_trial(bench, row, lambda epoch, scores: told.append((epoch, scores)))
    assert told == whole
    assert [epoch for epoch, _ in whole] == [1, 2, 3, 4, 5]
    assert resumed.scores == undisturbed.scores == whole[-1][1]
    assert not [*project.layout.partial.glob("discriminator-study-*")]


def test_a_trial_as_a_run_leads_to_its_weights(project: Study, searched):
    told = trial_run("tiny-discriminator", searched[0].trials[0])
    weights = project.root / told.tags["weights"]
    assert sha256(weights) == told.tags["weights_sha256"]
    assert (told.tags["grid"], told.metrics[0]["gflop"]) == ("D0", searched[0].trials[0].user_attrs["gflop"])


def test_finalists_are_the_best_and_d0(searched):
    found, finalists = searched
    complete = sorted((t for t in found.trials[:6] if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    judged = {trial.user_attrs[SEARCHED] for trial in finalists.trials}
    assert judged >= {trial.number for trial in complete[:2]} | {0}
    for trial in finalists.trials:
        source = found.trials[trial.user_attrs[SEARCHED]]
        assert trial.params == source.params
        assert math.isfinite(trial.values[0])
        assert trial.values[1] == source.user_attrs["gflop"] > 0


def test_cost_grows_with_epochs_and_width(searched):
    found, _ = searched
    complete = [t for t in found.trials if t.state == TrialState.COMPLETE]
    first, second = (t.user_attrs["gflop"] for t in found.trials[:2])
    assert first == second, "rows of the same size and length cost the same"
    longer = [t for t in complete if t.params["epochs"] > 4 and t.params["model_channels"] == 16]
    assert all(t.user_attrs["gflop"] > first for t in longer if t.params["bagging"] is None)


def test_a_later_call_goes_on_and_tells_only_its_own_trials(project: Study, searched):
    before, judged_before = (study.trials for study in searched)
    seen: list = []
    longer, judged = search(project, 7, seen)
    assert ("tiny-discriminator", 6) in seen
    assert [t.params for t in longer.trials[:6]] == [t.params for t in before]
    assert [t.values for t in judged.trials[: len(judged_before)]] == [t.values for t in judged_before]
    begun = len(seen)
    assert [len(study.trials) for study in search(project, 7, seen)] == [len(longer.trials), len(judged.trials)]
    assert len(seen) == begun


def test_one_worker_repeats_what_the_seed_gives(project: Study, searched, tmp_path: Path):
    again = Study(tmp_path / "again", small_search())
    shutil.copytree(project.root, again.root, ignore=shutil.ignore_patterns("study"))
    found, finalists = search(again, 6)
    assert [(t.params, t.value) for t in found.trials] == [(t.params, t.value) for t in searched[0].trials[:6]]
    assert [t.values for t in finalists.trials] == [t.values for t in searched[1].trials[: len(finalists.trials)]]


def test_missing_files_are_named_before_any_trial(tmp_path: Path):
    empty = Study(tmp_path, small_search())
    with pytest.raises(InputError, match=r"real/train\.npz.*`dvc repro` before the study"):
        search_plan(empty.config, empty.layout)


@pytest.fixture(scope="module")
def written(project: Study, searched) -> list[Path]:
    return write_discriminator_results(*search(project, 7), project.config, project.layout)


def test_results_hold_what_promotion_reads(written: list[Path]):
    record = read_json(written[0], "study")
    assert (record["n_trials"], record["seed"]) == (len(record["trials"]), 20)
    assert record["winner"]["fid"] == min(one["fid"] for one in record["finalists"])
    assert record["winner"]["trial"] in record["pareto_front"]
    assert record["best"]["value"] == min(t["value"] for t in record["trials"] if t["state"] == "complete")
    assert any(one["grid"] == "D0" for one in record["finalists"])


def test_results_have_charts_and_a_front_of_the_finalists(written: list[Path]):
    record, (_, table, *charts) = read_json(written[0], "study"), written
    names = ["history", "importances", "parallel", "slice", "pareto"]
    assert [path.name for path in charts] == [f"discriminator_{name}.png" for name in names]
    trials = trials_of(record, list(csv.DictReader(table.open(newline=""))))
    assert best_trial(record, trials).value == record["best"]["value"]
    assert sorted(trial.number for trial in front_of(trials)) == sorted(record["pareto_front"])
    assert {trial.number for trial in trials if trial.front} == {one["trial"] for one in record["finalists"]}
