"""From counts and rates to costs and rows."""

from __future__ import annotations

import pytest

from discriminator_guidance.planning.blueprints import INCEPTION_BYTES, Blueprints, Pictures
from discriminator_guidance.planning.commands import Command, commands
from discriminator_guidance.planning.estimate import Estimate, Speed, estimate, together
from discriminator_guidance.planning.rates import Rate
from discriminator_guidance.planning.table import duration, rows, size
from discriminator_guidance.planning.tracing import Traces
from discriminator_guidance.planning.work import Pass

from .profiles import mini, released

DIGITS = Pictures(16, 1, 10, 1438, 359)
CIFAR10 = Pictures(32, 3, 10, 50_000, 10_000)


@pytest.fixture(scope="module")
def traces() -> Traces:
    return Traces(Blueprints(mini(), DIGITS))


def speed(traces: Traces, runs: list[Command]) -> Speed:
    """A machine that needs a millisecond for every pass of a picture."""
    ways = {traces.alike(way) for command in runs for way in command.passes}
    return Speed(
        dict.fromkeys(ways, Rate(1e-3, 1)),
        dict.fromkeys(("frechet", "influence", "kid", "manifold"), 0.0),
        2.0,
        5.0,
        0.5,
        10**8,
    )


def test_every_stage_run_of_mini_is_there():
    names = [command.name for command in commands(Blueprints(mini(), DIGITS))]
    assert names[:5] == ["real", "score", "extractor", "fid_network", "fake"]
    assert [name for name in names if name.startswith("discriminator")] == [f"discriminator-d{i}" for i in range(6)]
    assert sum(name.startswith("guided-") for name in names) == 14
    assert sum(name.startswith("evaluation-") for name in names) == 14
    assert names[-1] == "report"


def test_counts_of_mini_by_hand():
    by_name = {command.name: command for command in commands(Blueprints(mini(), DIGITS))}
    assert by_name["score"].passes == {Pass("score step"): 300 * 64}
    assert by_name["fake"].passes == {Pass("score"): 1438 * 23}
    assert by_name["fake"].disk == 1438 * 256
    member = by_name["discriminator-d0"]
    assert member.passes[Pass("member step", ("d0",))] == 12 * 2300  # 60 epochs times 0.2
    assert by_name["guided-edm"].passes == {Pass("score"): 1000 * 23}
    assert by_name["evaluation-edm"].passes == {Pass("fid features"): 1000 + 1438 + 359}
    assert by_name["evaluation-d0"].passes == {Pass("fid features"): 1000}


def test_a_variant_may_have_a_window_of_its_own():
    variants = {name: mini().guided.variants[name].model_dump() for name in ("edm", "d0")}
    narrow = variants | {"narrow": variants["d0"] | {"window": [0.2, 0.6]}}
    blueprints = Blueprints(mini(guided__variants=narrow), DIGITS)
    asked = {c.choice: c.passes.get(Pass("guidance", ("d0",)), 0) for c in commands(blueprints) if c.stage == "guided"}
    assert 0 == asked["edm"] < asked["narrow"] < asked["d0"]


def test_ranges_multiply_samples_and_not_the_pictures_of_a_member():
    by_name = {command.name: command for command in commands(Blueprints(mini(guided__ranges=3), DIGITS))}
    assert by_name["guided-d0"].images == 3000
    assert by_name["evaluation-d0"].passes == {Pass("fid features"): 3000}
    assert by_name["discriminator-d0"].images == 12 * 2300


def test_released_networks_are_converted_not_trained():
    config = released()
    blueprints = Blueprints(config, CIFAR10)
    by_name = {command.name: command for command in commands(blueprints)}
    traces = Traces(blueprints)
    assert not by_name["score"].passes
    assert not by_name["extractor"].passes
    grid = by_name["discriminator-authors"].passes
    assert grid == {Pass("features"): 80_000, Pass("head", ("authors",)): 80_000}  # a fifth of 100,000 at 4 times
    costs = estimate(by_name["score"], traces, speed(traces, list(by_name.values())))
    assert costs.seconds == 0
    assert costs.disk == pytest.approx(4 * 55_733_891, rel=0.01)
    evaluation = estimate(by_name["evaluation-edm"], traces, speed(traces, list(by_name.values())))
    features = (2 * 50_000 + 60_000) * 2048 * 4  # of samples, unguided samples, training and held-out pictures
    assert evaluation.memory > INCEPTION_BYTES + features + 3 * 100_000 * 2048 * 8
    assert evaluation.disk == (50_000 + 60_000) * 2048 * 4 + 16 * 50_000
    head = estimate(by_name["discriminator-authors"], traces, speed(traces, list(by_name.values())))
    assert head.memory > 40_000 * 512 * 8 * 8 * 4  # features of the validation grid
    score = estimate(by_name["guided-edm"], traces, speed(traces, list(by_name.values())))
    assert score.flops == pytest.approx(50_000 * 69 * 42.38e9, rel=1e-3)


def test_seconds_and_disk_of_a_member(traces):
    runs = commands(Blueprints(mini(), DIGITS))
    member = next(command for command in runs if command.name == "discriminator-d0")
    costs = estimate(member, traces, speed(traces, runs))
    assert costs.seconds == pytest.approx(1e-3 * sum(member.passes.values()))
    head = sum(4 * p.numel() for p in traces.heads["d0"].state_dict().values())
    assert costs.disk == member.disk + head
    guided = next(command for command in runs if command.name == "guided-ensemble_probability")
    assert estimate(guided, traces, speed(traces, runs)).disk == guided.disk  # it makes no network


def test_evaluation_pays_for_its_libraries_and_report_and_real_for_a_start(traces):
    runs = commands(Blueprints(mini(), DIGITS))
    by_name = {command.name: estimate(command, traces, speed(traces, runs)) for command in runs}
    assert by_name["evaluation-d0"].seconds == pytest.approx(5.0 + 1.0)
    assert by_name["real"].seconds == 1.0
    assert by_name["report"].seconds > 2.0


def plain(stage: str, choice: str, seconds: float) -> Estimate:
    return Estimate(Command(stage, choice, images=10), 20, 3e12, 2e6, 1e9, seconds)


def test_table_adds_up_and_compares_only_what_was_recorded():
    parts = [
        plain("fake", "", 100.0),
        plain("guided", "edm", 60.0),
        plain("evaluation", "edm", 10.0),
        plain("evaluation", "d0", 30.0),
    ]
    table = {row["stage"]: row for row in rows(parts, 2.0, {"fake": 50.0, "evaluation-d0": 60.0})}
    assert list(table) == ["fake", "guided-edm", "evaluation (2)", "start-up (4)", "total"]
    assert table["evaluation (2)"]["images"] == "20"
    assert table["evaluation (2)"]["time"] == "40.0 s"
    assert table["total"]["time"] == duration(208.0)
    assert table["total"]["network evaluations"] == "80"
    assert table["fake"]["estimate / recorded"] == "2.00"
    assert table["guided-edm"]["estimate / recorded"] == ""
    assert table["evaluation (2)"]["estimate / recorded"] == "0.50"  # of the one that was recorded
    assert table["total"]["estimate / recorded"] == f"{130 / 110:.2f}"
    assert "recorded" not in rows(parts, 2.0, None)[0]


def test_memory_of_the_total_is_the_largest():
    whole = together([plain("fake", "", 1.0), plain("guided", "edm", 2.0)], Command("total"))
    assert (whole.memory, whole.disk, whole.seconds) == (1e9, 4e6, 3.0)


def test_units():
    assert [duration(s) for s in (0.5, 119.0, 600.0, 7200.0, 172_800.0)] == [
        "0.5 s",
        "119.0 s",
        "10.0 min",
        "2.0 h",
        "2.0 days",
    ]
    assert [size(b) for b in (0, 2.5e6, 3e9)] == ["", "2.5 MB", "3.0 GB"]
