"""Trials come back from a table as they were, and the Pareto front has no beaten trial."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from discriminator_guidance.artifacts.files import write_csv
from discriminator_guidance.report.study_record import Trial, best_trial, choice_text, front_of, trials_of
from tests.report.searches import RECORD, rows


def test_a_table_read_back_is_the_table_that_was_written(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", rows())
    with (tmp_path / "a.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert trials_of(RECORD, read) == trials_of(RECORD, rows())


def test_trials_are_told_apart_by_how_they_ended() -> None:
    trials = trials_of(RECORD, rows())
    assert [t.number for t in trials] == [0, 1, 2, 3, 4, 5], "a trial without all its parameters has no place"
    assert [t.number for t in trials if t.complete] == [0, 1, 3, 5]
    assert best_trial(RECORD, trials).params == {
        "weight_d0": 0.4,
        "rate": 0.01,
        "bagging": "1",
        "channels": "24",
        "boosting": "on",
    }
    assert trials[0].params["bagging"] == "none"


def test_without_two_values_there_is_no_front() -> None:
    record = {key: value for key, value in RECORD.items() if key != "pareto"}
    assert front_of(trials_of(record, rows())) == []


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 5.0), (2, 3.0), (3, 4.0), (4, 1.0)], [0, 1, 3]),
        ([(1, 5.0), (1, 4.0), (1, 4.0)], [1]),
        ([(2, 1.0), (1, 1.0)], [1]),
    ],
)
def test_the_front_has_no_beaten_trial(points: list[tuple[float, float]], front: list[int]) -> None:
    trials = [Trial(place, "complete", "", point[1], {}, point) for place, point in enumerate(points)]
    pruned = Trial(9, "pruned", "", 0.0, {}, (0.0, 0.0))
    assert [t.number for t in front_of([*trials, pruned])] == front


def test_choices_are_words() -> None:
    assert [choice_text(value) for value in (True, "false", None, "", 24.0, "24", "mean_logit")] == [
        "on",
        "off",
        "none",
        "none",
        "24",
        "24",
        "mean_logit",
    ]
