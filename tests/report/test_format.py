"""Verdicts from intervals, and numbers as they are printed."""

from __future__ import annotations

import math

from discriminator_guidance.report.format import (
    count,
    estimate,
    number,
    scientific,
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
