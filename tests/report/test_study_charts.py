"""Charts of a search are drawn where there is something to draw, and always to the same bytes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from discriminator_guidance.report import study_charts as charts
from discriminator_guidance.report.study_record import trials_of
from tests.report.searches import RECORD, rows


def test_every_chart_is_drawn_and_the_same_study_gives_the_same_bytes() -> None:
    pictures = charts.study_charts(RECORD, rows(), 50)
    assert set(pictures) == {"history", "importances", "parallel", "slice", "pareto"}
    assert pictures == charts.study_charts(RECORD, rows(), 50)
    for png in pictures.values():
        assert len(set(Image.open(io.BytesIO(png)).convert("L").tobytes())) > 20, "something is drawn"


def test_a_short_search_with_one_value_has_neither_importances_nor_a_front() -> None:
    record = {key: value for key, value in RECORD.items() if key != "pareto"} | {"importances": {}}
    assert set(charts.study_charts(record, rows(), 50)) == {"history", "parallel", "slice"}


def lines(axes: Any) -> dict[str, list[float]]:
    return {line.get_label().partition(":")[0]: list(line.get_ydata()) for line in axes.get_lines()}


def test_the_history_keeps_the_best_and_never_counts_a_pruned_trial() -> None:
    drawn = lines(charts.CHARTS["history"](RECORD, trials_of(RECORD, rows())).axes[0])
    assert drawn["best so far"] == [2.0, 2.0, 2.0, 1.25, 1.25, 1.25]
    assert drawn["every study begins with"] == [2.0, 2.5]
    assert drawn["pruned (value so far)"] == [9.0, 8.0]


def test_parallel_axes_have_the_searched_ranges_and_logarithms() -> None:
    drawn = lines(charts.CHARTS["parallel"](RECORD, trials_of(RECORD, rows())).axes[0])
    assert drawn["best, trial 3"] == pytest.approx([0.4, 1.0, 1.0, 0.0, 1.0])


def test_slices_have_complete_trials_only() -> None:
    figure = charts.CHARTS["slice"](RECORD, trials_of(RECORD, rows()))
    for axes in figure.axes[: len(RECORD["parameters"])]:
        assert sorted(axes.collections[0].get_offsets()[:, 1]) == [1.25, 1.5, 2.0, 2.5]


def test_the_front_is_a_staircase_of_unbeaten_trials() -> None:
    drawn = lines(charts.CHARTS["pareto"](RECORD, trials_of(RECORD, rows())).axes[0])
    assert drawn["Pareto front"] == [2.5, 1.25]
