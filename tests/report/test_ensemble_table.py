"""Table 4 and its finding: ensembles beside their members."""

from __future__ import annotations

import pytest

from discriminator_guidance.report.ensemble_table import ensemble_table
from discriminator_guidance.report.findings import findings
from discriminator_guidance.report.gather import Difference, Standing, gather
from discriminator_guidance.report.wording import members_text

from .conftest import Maker

NAMES = ("edm", "d0", "d1", "d2", "ensemble_probability")
ALONE = {name: name for name in ("d0", "d1", "d2")}


def around(value: float) -> Difference:
    return Difference(value, (value - 0.2, value + 0.2))


def standing(mean: float, d0: float, d1: float, d2: float) -> dict[str, Standing]:
    each = {name: around(value) for name, value in zip(ALONE, (d0, d1, d2), strict=True)}
    return {"ensemble_probability": Standing(ALONE, 3.0, around(mean), each)}


def title(maker: Maker, given: dict[str, Standing]):
    data = gather(maker(variants=NAMES, standings=given))
    return next((found for found in findings(data) if "the members it averages" in found.title), None)


def test_a_row_holds_mean_best_and_worst_member_and_the_paired_differences(make_inputs: Maker) -> None:
    inputs = make_inputs(variants=NAMES, standings=standing(-0.5, -1.0, -0.1, 0.4))
    inputs.settings["discriminator"]["members"]["d1"]["differs"]["init"] = "sequential"
    inputs.settings["guided"]["variants"]["ensemble_probability"]["members"] = tuple(ALONE)
    table = ensemble_table(gather(inputs))
    (row,) = table.rows
    told = dict(zip([column.full for column in table.columns], row, strict=True))
    assert told["ensemble"] == "ensemble_probability"
    assert told["of"] == "D0-D2, mean probability"
    assert told["start of its members"] == "2 of 3 fresh, 1 of 3 sequential"
    group = "FID (digits network) [95 %]"
    assert told[f"{group}: mean of its members"] == "3.00"
    assert told[f"{group}: best member"].startswith("D2 2.56 [")  # every place is better by half a unit
    assert told[f"{group}: worst member"].startswith("D0 3.56 [")
    paired = "ensemble's difference [95 %] from"
    assert told[f"{paired}: the mean of its members"] == "-0.50 [-0.70, -0.30]"
    assert told[f"{paired}: its best member"] == "+0.40 [+0.20, +0.60]"
    assert told[f"{paired}: edm"] == "-2.00 [-2.10, -1.90]"
    assert (told["members it is: better than"], told["members it is: worse than"]) == ("1 of 3", "1 of 3")


@pytest.mark.parametrize(
    ("mean", "side", "words"),
    [
        (-0.5, "lower", "better than its members on average"),
        (0.5, "higher", "worse than its members on average"),
        (0.1, "unclear", "not told from its members on average"),
    ],
)
def test_the_answer_follows_the_interval_against_the_mean(
    make_inputs: Maker, mean: float, side: str, words: str
) -> None:
    found = title(make_inputs, standing(mean, -1.0, -0.1, 0.4))
    assert (found.verdict, found.answer) == (side, f"ensemble_probability: {words}")
    assert "chosen by the same samples, which favours it" in found.paragraphs[0]
    assert "better than 1 and worse than 1 of 3" in found.paragraphs[1]


def test_without_members_sampled_alone_the_table_says_so_and_nothing_is_found(make_inputs: Maker) -> None:
    assert title(make_inputs, {}) is None
    table = ensemble_table(gather(make_inputs(variants=NAMES)))
    assert table.rows == ()
    assert "no ensemble had all its members sampled alone" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["bagged0", "bagged1", "bagged2"], "BAGGED0-BAGGED2"),
        (["bagged0", "bagged2", "bagged3"], "BAGGED0, BAGGED2, BAGGED3"),
        (["d0", "bagged1", "bagged2"], "D0, BAGGED1, BAGGED2"),
        (["tuned", "d0", "d1"], "TUNED, D0, D1"),
        ([], "none"),
    ],
)
def test_neighbours_of_one_name_are_written_as_a_run(names: list[str], text: str) -> None:
    assert members_text(names) == text
