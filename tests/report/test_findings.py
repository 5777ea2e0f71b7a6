"""Conclusions follow the intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from discriminator_guidance.report.clipped_story import free_part
from discriminator_guidance.report.findings import Finding, caveats, findings
from discriminator_guidance.report.gather import Difference, gather
from discriminator_guidance.report.wording import verdict
from tests.report.conftest import VARIANTS, Maker, apart


def found(make_inputs: Maker, variant: str, bounds: Sequence[float] | None, title: str) -> Finding:
    delta = None if bounds is None else sum(bounds) / 2
    data = gather(make_inputs(changes={variant: {"delta_fid_vs_edm": delta, "delta_fid_ci95": bounds}}))
    return next(finding for finding in findings(data) if title in finding.title)


@pytest.mark.parametrize(
    ("bounds", "side", "words"),
    [
        ([-1.2, -0.8], "lower", "lowers FID (digits network)"),
        ([0.8, 1.2], "higher", "raises FID (digits network)"),
        ([-0.2, 0.3], "unclear", "contains zero"),
        ([0.0, 0.3], "unclear", "contains zero"),
        (None, "unknown", "no interval"),
    ],
)
def test_sentence_flips_with_the_interval(
    make_inputs: Maker, bounds: list[float] | None, side: str, words: str
) -> None:
    finding = found(make_inputs, "d0", bounds, "(D0)")
    assert finding.verdict == side
    assert words in finding.paragraphs[0]
    others = {"lowers", "raises", "contains zero", "no interval"} - {words.split(" FID")[0]}
    assert not [word for word in others if word in finding.paragraphs[0]]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [((-0.8, -0.2), "better than d0"), ((0.2, 0.8), "worse than d0"), ((-0.2, 0.4), "not told from d0")],
)
def test_the_mean_is_ranked_against_one_discriminator_by_their_interval(
    make_inputs: Maker, bounds: tuple[float, float], words: str
) -> None:
    differences = apart(VARIANTS)
    differences["d0"]["ensemble_probability"] = Difference(sum(bounds) / 2, bounds)
    data = gather(make_inputs(differences=differences))
    finding = next(finding for finding in findings(data) if "averaging" in finding.title)
    assert finding.answer == f"ensemble_probability: better than no guidance, {words}"
    assert f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}] ({words})" in finding.paragraphs[-1]


def test_nothing_is_ranked_against_a_variant_that_is_not_there(make_inputs: Maker) -> None:
    (finding,) = findings(gather(make_inputs(variants=("edm", "ensemble_probability"))))
    assert finding.answer == "ensemble_probability: better than no guidance"
    assert "d0" not in " ".join(finding.paragraphs).replace("D0-D5", "")


def test_story_of_the_clipped_logits_claims_harm_only_where_there_is_some(make_inputs: Maker) -> None:
    ends = {
        bounds: found(make_inputs, "ensemble_clipped_logit", bounds, "ensemble code").paragraphs[-1]
        for bounds in ((2.0, 3.0), (-1.0, -0.5), (-0.5, 0.5))
    }
    assert "does harm" in ends[(2.0, 3.0)]
    assert "does not undo" in ends[(-1.0, -0.5)]
    assert "leaves nothing" in ends[(-0.5, 0.5)]
    assert len(set(ends.values())) == 3


def test_story_of_the_clipped_logits_counts_the_pinned_ratios(make_inputs: Maker) -> None:
    data = gather(make_inputs())
    ratio = data.trajectories["ensemble_clipped_logit"].log_ratio[:-1]  # the last step is outside the window
    text = next(finding for finding in findings(data) if "ensemble code" in finding.title).paragraphs[2]
    assert "pinned at -11.5" in text
    assert f"{100 * (ratio < -11.5).mean():.0f} % of the log ratios" in text


def test_study_setting_states_the_total_weight(make_inputs: Maker) -> None:
    finding = next(f for f in findings(gather(make_inputs())) if "own setting" in f.title)
    assert "total weight of 1, while w1 = w2 = 2 applies 2" in finding.paragraphs[0]
    assert "d0_table1" in finding.answer


def test_questions_without_variants_are_not_asked(make_inputs: Maker) -> None:
    assert findings(gather(make_inputs(variants=("edm",)))) == []


def test_caveats_name_what_is_shared_and_what_was_held_out(make_inputs: Maker) -> None:
    text = " ".join(caveats(gather(make_inputs())))
    for words in ("share the same 1,438 training images", "20 %", "359", "sampling noise only", "N = 8"):
        assert words in text
    assert "Both move the same way" in text
    opposite = {"d0": {"kid_holdout": 0.9}}
    assert "opposite directions" in " ".join(caveats(gather(make_inputs(changes=opposite))))


def test_verdict_needs_an_interval_clear_of_zero() -> None:
    assert [verdict(b) for b in ([-2.0, -1.0], [1.0, 2.0], [-1.0, 1.0], [0.0, 1.0], [-1.0, 0.0], None)] == [
        "lower",
        "higher",
        "unclear",
        "unclear",
        "unclear",
        "unknown",
    ]


def test_free_part_leaves_out_what_is_pinned() -> None:
    limit = float(np.log((1 - 1e-5) / 1e-5))
    probability = np.array([0.1, 0.1, 0.5])
    ratio = np.concatenate([np.log(probability / (1 - probability)), [limit, -limit, -limit]])
    part = free_part(ratio.astype(np.float32)[None], limit)
    assert part is not None
    assert part.share == pytest.approx(0.5)
    assert part.probability == pytest.approx(0.1, rel=1e-5)
    assert part.amplification == pytest.approx(1 / 0.09, rel=1e-5)
    assert free_part(np.full((2, 3), -limit, np.float32), limit) is None


@pytest.mark.parametrize(("early", "late", "told"), [(0.03, 0.4, True), (0.4, 0.03, False), (0.5, 0.5, False)])
def test_noise_is_said_to_be_amplified_only_where_it_is(
    make_inputs: Maker, early: float, late: float, told: bool
) -> None:
    data = gather(make_inputs())
    ratio = data.trajectories["ensemble_clipped_logit"].log_ratio
    half = len(ratio) // 2
    ratio[:half] = np.log(early / (1 - early))
    ratio[half:-1] = np.log(late / (1 - late))
    finding = next(finding for finding in findings(data) if "ensemble code" in finding.title)
    text = " ".join(finding.paragraphs)
    assert ("noise becomes a strong push" in text) is told
    assert f"median p = {early:.2f} and a gradient amplified {1 / (early * (1 - early)):.1f} times" in text


@pytest.mark.parametrize("worse", [None, "d1", "d2"])
def test_single_discriminators_that_do_harm_are_named_with_their_learning_rate(
    make_inputs: Maker, worse: str | None
) -> None:
    changes = {worse: {"delta_fid_vs_edm": 2.0, "delta_fid_ci95": [1.0, 3.0]}} if worse else {}
    inputs = make_inputs(variants=("edm", "d0", "d1", "d2", "d0_w1"), changes=changes)
    finding = next(finding for finding in findings(gather(inputs)) if "every single" in finding.title)
    assert "d0_w1" not in finding.paragraphs[0], "another weight"
    if worse is None:
        assert finding.verdict == "lower"
        assert "None is worse" in finding.paragraphs[1]
    else:
        rate = {"d1": "0.003", "d2": "3e-4"}[worse]
        assert finding.verdict == "unclear"
        assert f"{worse}: worse than no guidance" in finding.answer
        assert f"{worse} (learning rate {rate}, the study's × 3)" in finding.paragraphs[1]


def test_caveats_say_what_the_frozen_features_had_seen(make_inputs: Maker) -> None:
    text = " ".join(caveats(gather(make_inputs())))
    assert "train on 80 % of the training pictures" in text
    assert "359 held-out pictures were seen by none" in text
