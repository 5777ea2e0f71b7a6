"""Rows of variants that wait for a study."""

from __future__ import annotations

from discriminator_guidance.report.gather import gather
from discriminator_guidance.report.tables import discriminator_table, result_table
from discriminator_guidance.report.wording import variant_text
from tests.report.conftest import MEMBERS, VARIANTS, Maker

TUNED = {
    "members": ("d0", "d1"),
    "rule": "mean_logit",
    "weights": (0.75, 0.25),
    "w1": 1.5,
    "w2": 2.0,
    "boosting": False,
    "window": (0.01, 0.9),
}


def rows(make_inputs: Maker, **given: object) -> dict[str, tuple[str, ...]]:
    return {row[0]: row for row in result_table(gather(make_inputs(**given))).rows}


def test_without_a_tuned_file_the_rows_say_what_to_do(make_inputs: Maker) -> None:
    found = rows(make_inputs)
    assert "not tuned yet: `dguide study ensemble --profile mini`" in found["ensemble_tuned"][1]
    assert "`dguide study promote discriminator --profile mini`" in found["tuned"][1]
    assert {len(row) for row in found.values()} == {len(found["edm"])}


def test_promoted_and_not_evaluated_rows_ask_for_the_pipeline(make_inputs: Maker) -> None:
    inputs = make_inputs(variants=(*VARIANTS, "tuned"), members=(*MEMBERS, "d3"))
    (inputs.evaluation / "tuned.json").unlink()
    assert "not evaluated yet: `dvc repro`" in {row[0]: row for row in result_table(gather(inputs)).rows}["tuned"][1]


def test_a_tuned_member_that_is_not_trained_is_not_missed(make_inputs: Maker) -> None:
    inputs = make_inputs()
    inputs.settings["discriminator"]["members"]["tuned"] = inputs.settings["discriminator"]["members"]["d0"]
    waiting = type(inputs)(**{**vars(inputs), "members": (*MEMBERS, "tuned")})
    assert [row[0] for row in discriminator_table(gather(waiting)).rows] == [name.upper() for name in MEMBERS]


def test_evaluated_rows_show_their_numbers_like_any_other(make_inputs: Maker) -> None:
    found = rows(make_inputs, variants=(*VARIANTS, "ensemble_tuned"))
    assert found["ensemble_tuned"][4] == "1.56 [1.36, 1.76]"
    assert "not tuned yet" in found["tuned"][1]


def test_weights_and_window_are_told() -> None:
    assert variant_text(TUNED) == "D0 0.75, D1 0.25; mean logit, VP time 0.01 to 0.9"
    assert variant_text(TUNED | {"weights": "equal", "window": None}) == "D0, D1, mean logit"
    alone = TUNED | {"members": ("tuned",), "weights": "equal", "rule": "mean_probability"}
    assert variant_text(alone) == "TUNED alone, VP time 0.01 to 0.9"


def test_a_profile_of_families_waits_for_no_study(make_inputs: Maker) -> None:
    inputs = make_inputs()
    rows_of_table_2 = inputs.settings["discriminator"]["members"]
    rows_of_table_2["bagged0"] = rows_of_table_2["d0"]
    assert not {"tuned", "ensemble_tuned"} & {row[0] for row in result_table(gather(inputs)).rows}
