"""Tuned variants against what their studies began with."""

from __future__ import annotations

import pytest

from discriminator_guidance.report.findings import findings
from discriminator_guidance.report.gather import Difference, gather
from tests.report.conftest import VARIANTS, Maker, apart

WITH_TUNED = (*VARIANTS, "ensemble_tuned")
TUNING = {"study": "ensemble", "trial": 41, "fid": 1.0, "images": 500, "start_fid": 1.5}


def told(make_inputs: Maker, bounds: tuple[float, float], tuning: dict | None = None):
    differences = apart(WITH_TUNED)
    differences["ensemble_probability"]["ensemble_tuned"] = Difference(sum(bounds) / 2, bounds)
    inputs = make_inputs(variants=WITH_TUNED, differences=differences)
    inputs.settings["guided"]["variants"]["ensemble_tuned"] |= {"tuning": tuning}
    return next(finding for finding in findings(gather(inputs)) if "ensemble_tuned" in finding.title)


@pytest.mark.parametrize(
    ("bounds", "side", "words"),
    [
        ((-0.8, -0.2), "lower", "better than ensemble_probability"),
        ((0.2, 0.8), "higher", "worse than ensemble_probability"),
        ((-0.2, 0.4), "unclear", "not told from ensemble_probability"),
    ],
)
def test_the_answer_follows_the_interval_on_evaluation_samples(
    make_inputs: Maker, bounds: tuple[float, float], side: str, words: str
) -> None:
    finding = told(make_inputs, bounds, TUNING)
    assert finding.verdict == side
    assert finding.answer == f"{words}; better than d0"
    assert f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}] ({words})" in finding.paragraphs[0]


def test_both_numbers_and_their_gap_are_shown(make_inputs: Maker) -> None:
    text = told(make_inputs, (-0.3, -0.1), TUNING).paragraphs[1]
    assert "Trial 41 of study ensemble was chosen for its 1.00 on 500 tuning samples" in text
    assert "1.56 [1.36, 1.76]" in text  # its distance on the evaluation samples
    assert "-0.50 from ensemble_probability, on the evaluation samples -0.20: the gap of +0.30" in text


def test_without_what_the_study_saw_there_is_no_such_sentence(make_inputs: Maker) -> None:
    assert len(told(make_inputs, (-0.3, -0.1)).paragraphs) == 2  # the differences, and the setting
    text = " ".join(told(make_inputs, (-0.3, -0.1), TUNING | {"start_fid": None}).paragraphs)
    assert "1.00 on 500 tuning samples" in text
    assert "the gap" not in text


def test_nothing_is_said_of_variants_that_are_not_there(make_inputs: Maker) -> None:
    assert not [finding for finding in findings(gather(make_inputs())) if "tun" in finding.title.lower()]
