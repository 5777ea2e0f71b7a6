"""Searches on the page: what to do where none was run, charts, tables, and what the choice of the best was worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.report.gather import gather
from discriminator_guidance.report.page import build_report
from discriminator_guidance.report.study_section import study_sections
from tests.report.conftest import VARIANTS, Maker
from tests.report.searches import RECORD, leave


def test_without_a_search_the_page_says_how_to_run_one(make_inputs: Maker) -> None:
    inputs = make_inputs()
    build_report(inputs)
    page = (inputs.destination / "index.html").read_text()
    for study in ("discriminator", "ensemble"):
        assert f"Not run yet: `dguide study {study} --profile mini --trials N`." in page


def test_a_search_is_shown_with_its_charts_and_best_trials(make_inputs: Maker) -> None:
    inputs = make_inputs()
    leave(inputs.studies, inputs.evaluation)
    build_report(inputs)
    page = (inputs.destination / "index.html").read_text()
    assert 'id="ensemble_history"' in page
    assert "Not run yet: `dguide study discriminator" in page
    _, section = study_sections(gather(inputs))
    assert "7 trials (4 complete, 1 fail, 2 pruned), sampler seed 20" in section.paragraphs[0]
    assert "trial 3 with 1.250; of those every study begins with, plain mean with 2.000" in section.paragraphs[0]
    bias, trials = section.tables
    assert [row[:4] for row in trials.rows] == [
        ("3", "–", "1.250", "yes"),
        ("5", "–", "1.500", "–"),
        ("0", "plain mean", "2.000", "–"),
        ("1", "d0", "2.500", "yes"),
    ]
    assert trials.rows[0][4:] == ("0.4", "0.01", "1", "24", "on")
    assert "not tuned yet" in bias.notes[2]
    (picture,) = section.pictures
    assert (picture.width, picture.height) == (96, 48)
    assert "N = 7 trials, sampler seed 20" in picture.caption


def test_the_winner_stands_on_both_sets_of_samples(make_inputs: Maker) -> None:
    settings = make_inputs().settings
    tuning = {"study": "ensemble", "trial": 3, "fid": 1.25, "images": 500, "start_fid": 2.0}
    rows = settings["guided"]["variants"]
    rows["ensemble_tuned"] = rows["ensemble_probability"] | {"tuning": tuning}
    inputs = make_inputs(variants=(*VARIANTS, "ensemble_tuned"), settings=settings)
    leave(inputs.studies, inputs.evaluation)
    _, section = study_sections(gather(inputs))
    start, tuned, difference = section.tables[0].rows
    assert (start[0], start[1], tuned[1]) == ("ensemble_probability", "2.00", "1.25")
    assert tuned[2].startswith("1.56 [1.36, 1.76]")
    assert difference == ("difference from ensemble_probability", "-0.75", "-1.00 [-1.10, -0.90]")
    assert "N = 500, run seed 10" in section.tables[0].notes[0]


def test_another_record_than_the_search_left_is_refused(make_inputs: Maker) -> None:
    inputs = make_inputs()
    record: Path = leave(inputs.studies, inputs.evaluation)
    record.write_text(record.read_text().replace("1.25", "1.0"))
    with pytest.raises(InputError, match=r"ensemble\.json as the search left it; got another file; run `dguide study"):
        study_sections(gather(inputs))


def test_a_record_without_its_table_is_refused(make_inputs: Maker) -> None:
    inputs = make_inputs()
    leave(inputs.studies, inputs.evaluation)
    (inputs.studies / "ensemble.csv").unlink()
    with pytest.raises(InputError, match=r"ensemble\.csv"):
        study_sections(gather(inputs))


def test_a_search_with_one_value_needs_no_front(make_inputs: Maker) -> None:
    inputs = make_inputs()
    leave(inputs.studies, inputs.evaluation, word="discriminator", pareto=None)
    assert RECORD["pareto"] is not None
    section, _ = study_sections(gather(inputs))
    assert "on the Pareto front" not in {column.heading for column in section.tables[1].columns}
