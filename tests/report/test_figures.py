"""Figures: right panels with right lines."""

from pathlib import Path

import pytest

from dguide.report import figures

from .conftest import report_data


def test_a_released_head_has_no_curves_and_the_reproduction_stands_beside_the_others(tmp_path: Path) -> None:
    def released(report: Path) -> None:
        history = report / "discriminator" / "d0" / "history.csv"
        history.write_text(history.read_text().splitlines()[0] + "\n")

    data = report_data(tmp_path, damage=released)
    loss, *_ = figures.curves_figure(data).axes
    _, train, theirs, *_ = loss.get_lines()
    assert loss.get_ylabel() == "D1"
    assert theirs.get_ydata()[-1] == pytest.approx(0.41, abs=0.01)
    assert train.get_ydata().tolist() == data.histories["d1"]["train_loss"].tolist()


def test_the_process_figure_shows_by_how_much_guidance_changes_the_estimate(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    for name, grey in (("edm", 0.0), ("d0", 0.25)):
        data.trajectories[name]["denoised"][:] = grey
        data.trajectories[name]["states"][-1] = grey
    rows = [axes.get_ylabel() for axes in figures.process_figure(data).axes if axes.get_ylabel()]
    assert len(rows) == 6
    assert float(rows[-1].partition("±")[2]) == pytest.approx(0.125, abs=0.006)  # the grey range is [-1, 1]
