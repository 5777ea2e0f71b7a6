"""Which member goes on from which."""

from __future__ import annotations

import pytest

from discriminator_guidance.config import parse_config
from discriminator_guidance.config.sections import Discriminator
from discriminator_guidance.stages.chain import of_member, predecessor, predecessors_hash

from .conftest import spare_members, tiny_settings


def section(init: str = "sequential", **differs: dict | None) -> Discriminator:
    """Members in the order given, each with its differences; None stands for a released one."""
    settings = tiny_settings()
    row = settings["discriminator"]["members"]["d0"]
    members = {
        name: {"path": "head.pt"} if own is None else row | {"seed": seed, "differs": own}
        for seed, (name, own) in enumerate(differs.items())
    }
    spare_members(settings)
    spare = {name: settings["discriminator"]["members"][name] for name in settings["factorial"]["members"]}
    settings["discriminator"] |= {"init": init, "pretrained": "head.pt", "members": members | spare}
    settings["guided"]["variants"] = {"edm": settings["guided"]["variants"]["edm"]}
    return parse_config(settings, "configs/tiny.yaml").discriminator


FRESH, AFTER, GIVEN = {"init": "fresh"}, {"init": "sequential"}, {"init": "pretrained"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (section(d0={}, d1={}, d2={}), {"d0": None, "d1": "d0", "d2": "d1"}),
        (section("fresh", d0={}, d1=AFTER, d2=AFTER), {"d0": None, "d1": "d0", "d2": "d1"}),
        (section(d0=FRESH, d1={}), {"d0": None, "d1": "d0"}),
        (section(d0=GIVEN, d1={}, d2=GIVEN, d3={}), {"d0": None, "d1": "d0", "d2": None, "d3": "d2"}),
        (section(authors=None, d0={}, other=None, d1={}), {"authors": None, "d0": None, "other": None, "d1": "d0"}),
        (section("fresh", d0={}, d1={}), {"d0": None, "d1": None}),
        (
            section(
                "fresh",
                d0={},
                d1=AFTER | {"after": "d0"},
                d2={},
                d3=AFTER | {"after": "d2"},
                d4=AFTER | {"after": "d1"},
            ),
            {"d0": None, "d1": "d0", "d2": None, "d3": "d2", "d4": "d1"},
        ),
    ],
)
def test_a_sequential_member_goes_on_from_the_trained_one_before_it(settings, expected):
    assert {name: predecessor(settings, name) for name in expected} == expected


def test_the_hash_follows_every_row_before_a_member_and_none_after():
    members = {"d0": {}, "d1": {}, "d2": {}, "d3": {}}
    before = predecessors_hash(section(**members), "d2")
    assert predecessors_hash(section(**members), "d0") is None
    for name in ("d0", "d1"):
        assert predecessors_hash(section(**(members | {name: {"bagging": 0.5}})), "d2") != before
    for name in ("d2", "d3"):
        assert predecessors_hash(section(**(members | {name: {"bagging": 0.5}})), "d2") == before
    assert predecessors_hash(section(**(members | {"d1": FRESH})), "d2") != before


def test_what_a_member_differs_in_is_its_own_and_false_and_zero_are_values():
    settings = section("fresh", d0={}, d1={"reshuffle": False, "label_smoothing": 0.0, "checkpoint": 2})
    settings = settings.model_copy(update={"reshuffle": True, "label_smoothing": 0.1})
    got = {key: [of_member(settings, name, key) for name in ("d0", "d1")] for key in ("reshuffle", "label_smoothing")}
    assert got == {"reshuffle": [True, False], "label_smoothing": [0.1, 0.0]}
    assert of_member(settings, "d1", "checkpoint") == 2
    assert of_member(settings, "d1", "init") == "fresh"
