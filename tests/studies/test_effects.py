"""Designs, aliases and effects against hand-computed ones and an independent least squares fit."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from discriminator_guidance.errors import InputError
from discriminator_guidance.studies.effects import Fraction, estimate

HALF = Fraction(("a", "b", "c"), ("a", "b"), {"c": ("a", "b")})
SIXTEENTH = Fraction(
    tuple("abcdefg"),
    tuple("abcd"),
    {"e": ("a", "b", "c"), "f": ("b", "c", "d"), "g": ("a", "c", "d")},
)


def test_a_half_fraction_is_the_one_of_the_textbook():
    assert HALF.levels().tolist() == [[-1, -1, 1], [-1, 1, -1], [1, -1, -1], [1, 1, 1]]
    assert HALF.words() == [("a", "b", "c")]
    assert HALF.resolution() == 3
    assert HALF.aliases(("a",), 2) == [("b", "c")]


def test_the_sixteen_runs_have_the_published_defining_relation():
    # Box, Hunter & Hunter 2005, Table 6.22: 2^(7-3) of resolution IV.
    words = ["".join(word) for word in SIXTEENTH.words()]
    assert words == ["abce", "abfg", "acdg", "adef", "bcdf", "bdeg", "cefg"]
    assert SIXTEENTH.resolution() == 4


def test_listed_aliases_are_the_equal_columns_and_no_others():
    levels, names = SIXTEENTH.levels(), SIXTEENTH.factors
    effects = [(name,) for name in names] + list(combinations(names, 2))
    column = {e: np.prod(levels[:, [names.index(name) for name in e]], axis=1) for e in effects}
    for effect in effects:
        same = {other for other in effects if other != effect and np.array_equal(column[other], column[effect])}
        assert set(SIXTEENTH.aliases(effect, 2)) == same, effect
    groups = SIXTEENTH.interactions()
    assert len(groups) == 7
    assert all(list(group) == sorted(group) for group in groups)
    assert groups[0] == (("a", "b"), ("c", "e"), ("f", "g"))
    assert sorted(pair for group in groups for pair in group) == list(combinations(names, 2))


def test_short_words_and_aliases_come_first():
    mixed = Fraction(tuple("abcde"), tuple("abc"), {"d": ("a", "b", "c"), "e": ("a", "b")})
    assert mixed.words() == [("a", "b", "e"), ("c", "d", "e"), ("a", "b", "c", "d")]
    assert mixed.resolution() == 3
    assert mixed.aliases(("e",), 5) == [("a", "b"), ("c", "d"), ("a", "b", "c", "d", "e")]
    assert mixed.aliases(("e",), 2) == [("a", "b"), ("c", "d")]
    assert mixed.aliases(("a", "b"), 1) == [("e",)]


def test_effects_are_those_of_a_least_squares_fit():
    rng = np.random.default_rng(0)
    levels, names = SIXTEENTH.levels(), SIXTEENTH.factors
    response = rng.normal(size=16)
    effects = [(name,) for name in names] + [group[0] for group in SIXTEENTH.interactions()]
    columns = [np.prod(levels[:, [names.index(n) for n in e]], axis=1) for e in effects]
    fitted, *_ = np.linalg.lstsq(np.stack([np.ones(16), *columns], axis=1).astype(float), response, rcond=None)
    for effect, coefficient in zip(effects, fitted[1:], strict=True):
        weights = SIXTEENTH.contrast(effect)
        # In a fit of -1 and +1 a coefficient is half of the difference between the levels.
        np.testing.assert_allclose(weights @ response, 2 * coefficient, atol=1e-12)


def test_a_hand_computed_design():
    # Runs (-,-), (-,+), (+,-), (+,+) with responses 1, 2, 4, 9: a: 6.5 - 1.5, b: 5.5 - 2.5, ab: 5 - 3.
    whole = Fraction(("a", "b"), ("a", "b"), {})
    assert (whole.resolution(), whole.aliases(("a",), 2)) == (3, [])
    response = np.array([1.0, 2.0, 4.0, 9.0])
    assert [whole.contrast(effect) @ response for effect in (("a",), ("b",), ("a", "b"))] == [5.0, 3.0, 2.0]


def test_the_interval_is_the_t_interval_of_the_block_effects():
    rng = np.random.default_rng(1)
    responses, weights = rng.normal(size=(3, 4)), np.array([0.5, -0.5, 0.5, -0.5])
    found = estimate(responses, rng.normal(size=(3, 4, 5)), weights)
    low, high = stats.t.interval(0.95, 2, np.mean(found.blocks), stats.sem(found.blocks))
    np.testing.assert_allclose([found.low, found.high], [low, high])
    np.testing.assert_allclose(found.blocks, responses @ weights)
    assert found.value == pytest.approx(np.mean(found.blocks))
    two = estimate(np.array([[1.0], [3.0]]), np.zeros((2, 1, 5)), np.array([1.0]))
    assert (two.low, two.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)


def test_sampling_noise_shared_by_the_cells_of_a_block_cancels():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(3, 1, 50)) * np.ones((1, 2, 1))
    difference = np.array([1.0, -1.0])
    assert estimate(np.ones((3, 2)), shared, difference).sampling_error < 1e-12
    alone = estimate(np.ones((3, 1)), shared[:, :1], np.array([1.0]))
    expected = np.sqrt(np.sum(np.square([stats.sem(s - s.mean()) for s in shared[:, 0]]))) / 3
    np.testing.assert_allclose(alone.sampling_error, expected, rtol=0.05)


def test_one_block_has_no_interval():
    with pytest.raises(InputError, match="expected at least 2 blocks; got 1; add training seeds"):
        estimate(np.ones((1, 2)), np.ones((1, 2, 5)), np.array([1.0, -1.0]))
