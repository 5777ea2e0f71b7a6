"""Verdicts from intervals, and numbers as they are printed."""

from __future__ import annotations

import math

from markupsafe import Markup

from discriminator_guidance.report.format import (
    count,
    estimate,
    members_text,
    number,
    scientific,
    typeset,
    verdict,
)


def test_a_verdict_needs_an_interval_that_excludes_zero() -> None:
    assert verdict((-2.0, -0.01)) == "better"
    assert verdict((0.01, 2.0)) == "worse"
    assert {verdict(bounds) for bounds in ((-1.0, 1.0), (-1.0, 0.0), (0.0, 0.0))} == {"indistinguishable"}
    assert {verdict(bounds) for bounds in ((-1.0, math.nan), (None, None), None)} == {"unknown"}


def test_numbers() -> None:
    assert [number(value, 2) for value in (1.005, -0.001, None, math.nan)] == ["1.00", "0.00", "–", "–"]
    assert [number(value, 1, sign=True) for value in (2.0, -2.0, 0.01)] == ["+2.0", "-2.0", "0.0"]
    assert estimate(-0.75, (-1.43, -0.07), sign=True) == "-0.75 [-1.43, -0.07]"
    assert estimate(1.0, None) == "1.00"
    assert [scientific(value) for value in (3e-4, 1e-11, 0.0, 0.01, None)] == ["3e-4", "1e-11", "0", "0.01", "–"]
    assert count(50_000) == "50,000"


def test_consecutive_members_are_a_range() -> None:
    sets = ([], ["d0"], ["d0", "d1", "d2"], ["d0", "d2"], ["a1", "b2", "c3"])
    assert [members_text(members) for members in sets] == ["–", "D0", "D0-D2", "D0, D2", "A1, B2, C3"]


def test_minus_signs_are_typeset_but_ranges_and_names_are_not() -> None:
    assert typeset("-1.50 [-2.00], 3e-4, D0-D5, 16x16, exp, +-1") == "−1.50 [−2.00], 3e-4, D0-D5, 16×16, exp, ±1"
    assert isinstance(typeset(Markup("<b>-1</b>")), Markup)
