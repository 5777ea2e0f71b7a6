"""Figures: right panels, and states visible at every noise level."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dguide.report import figures, samples
from dguide.report.gather import ReportData

from .conftest import Maker


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are finished, as matplotlib objects."""
    kept: list[Figure] = []
    finish = figures.finish

    def keep(figure: Figure, data: ReportData) -> bytes:
        kept.append(figure)
        return finish(figure, data)

    for module in (figures, samples):
        monkeypatch.setattr(module, "finish", keep)
    return kept


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def test_curves_and_calibration_have_a_panel_for_each_member(make_data: Maker, drawn: list[Figure]) -> None:
    def released(report: Path) -> None:
        history = report / "discriminator" / "d2" / "history.csv"
        history.write_text(history.read_text().splitlines()[0] + "\n")

    data = make_data(damage=released)
    figures.curves_figure(data)
    figures.calibration_figure(data)
    assert titles(drawn[0]) == ["D0", "D1", "", ""], "a released head has no curves"
    assert titles(drawn[1]) == ["D0", "D1", "D2"]
    _, train, theirs, *_ = drawn[0].axes[1].get_lines()
    assert theirs.get_ydata()[-1] == pytest.approx(0.41, abs=0.01)  # of the reproduction's D1
    assert train.get_ydata().tolist() == data.members[1].history["train_loss"].tolist()


def test_process_figure_shows_the_sample_that_guidance_changes_most(make_data: Maker, drawn: list[Figure]) -> None:
    data = make_data()
    guided = data.trajectories["d0"]
    guided.states[-1, 1] += 0.25
    guided.states[-1, 0, 0, 0] += 0.5  # a larger change, but of one pixel only
    samples.process_figure(data)
    rows = [axes.get_ylabel() for axes in drawn[0].axes if axes.get_ylabel()]
    assert any("sample 1,000,001" in row for row in rows)
    # Half of 0.25: the grey range is [-1, 1] before it is shown.
    assert float(rows[-1].partition("±")[2]) == pytest.approx(0.125, abs=0.006)
    assert len(drawn[0].axes) == 6 * 8
