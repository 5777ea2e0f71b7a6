"""Stage `evaluation`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from discriminator_guidance.errors import InputError
from discriminator_guidance.files import write_npz
from discriminator_guidance.metrics.classification import classification_scores
from discriminator_guidance.metrics.significance import Measured
from tests.metrics.sets import gaussian_statistics

from .conftest import Tiny, run_stage, tiny_settings, write_params


@pytest.fixture
def sampled(tiny: Tiny) -> Tiny:
    """The tiny study with 24 samples of every variant."""
    config, layout = tiny
    for number, variant in enumerate(config.variants):
        images = np.random.default_rng(number).integers(0, 200 + 10 * number, (24, 8, 8, 1), dtype=np.uint8)
        write_npz(layout.guided(variant) / "samples.npz", images=images, index=config.guided.seed_start + np.arange(24))
    return tiny


def evaluated(study: Tiny, variant: str, **changes: Any) -> dict[str, Any]:
    """Metrics, details and influence of a variant, after a change of settings."""
    _, layout = study
    settings = tiny_settings({key.replace("__", "."): value for key, value in changes.items()})
    summary, tracker = run_stage("evaluation", write_params(layout.root, settings), variant)
    metrics = json.loads(layout.evaluation(variant).read_text(), parse_constant=pytest.fail)
    assert metrics == pytest.approx(summary, rel=1e-8)
    details = json.loads((layout.evaluated(variant) / "details.json").read_text(), parse_constant=pytest.fail)
    assert tracker.settings == {key: details[key] for key in tracker.settings}
    return {**details, **metrics, **dict(np.load(layout.evaluated(variant) / "influence.npz"))}


def test_details_hold_what_the_report_expects(sampled: Tiny) -> None:
    d0 = evaluated(sampled, "d0")
    expected = {"variant": "d0", "n": 24, "replicates": 1, "nfe": 7, "steps": 4}
    expected |= {"members": ["d0"], "rule": "mean_probability"}
    expected |= {"weights": "equal", "w1": 2.0, "w2": 2.0, "boosting": False, "window": [0.01, 1.0], "seed": 10}
    expected |= {"fid_network": "digits network", "reference_statistics": None, "reference_n": 40, "holdout_n": 20}
    assert {key: d0[key] for key in expected} == expected
    assert d0["fid_values"] == [d0["fid"]]
    edm = evaluated(sampled, "edm")
    assert edm["floor"] > 0
    for name in ("fid", "kid"):
        low, high = edm[f"holdout_{name}_ci95"]
        assert low < edm[f"holdout_{name}"] < high


def test_influence_by_sample_gives_the_intervals_and_edm_differs_from_itself_by_nothing(sampled: Tiny) -> None:
    d0, edm = evaluated(sampled, "d0"), evaluated(sampled, "edm")
    np.testing.assert_array_equal(d0["index"], 1_000_000 + np.arange(24))
    measured, other = (Measured((found["fid"],), found["influence"]) for found in (d0, edm))
    assert measured.interval() == pytest.approx((d0["fid_low"], d0["fid_high"]), rel=1e-7)
    assert measured.minus(other).interval() == pytest.approx((d0["delta_low"], d0["delta_high"]), abs=1e-6)
    assert (edm["delta_fid"], edm["delta_low"], edm["delta_high"]) == (0, 0, 0)
    assert edm["delta_kid_holdout_ci95"] == [0, 0]
    assert d0["delta_kid_holdout_ci95"][0] < d0["delta_kid_holdout"] < d0["delta_kid_holdout_ci95"][1]
    assert [edm[key] for key in ("discriminator_auroc", "rule", "window", "members")] == [None, None, None, []]


def test_replicates_are_evaluated_one_by_one_and_averaged(sampled: Tiny) -> None:
    _, layout = sampled
    parts = [evaluated(sampled, "d0"), evaluated(sampled, "d0_table1")]
    shared = evaluated(sampled, "edm")
    for number, variant in enumerate(("d0", "d0_table1")):  # as two replicates of d0
        own = layout.replicates(2)[number]
        for name, source in (("d0", variant), ("edm", "edm")):
            write_npz(own.guided(name) / "samples.npz", **dict(np.load(layout.guided(source) / "samples.npz")))
        write_npz(
            own.discriminator("d0") / "test_logits.npz",
            **dict(np.load(layout.discriminator("d0") / "test_logits.npz")),
        )
    both = evaluated(sampled, "d0", replicates=2)
    assert both["fid_values"] == pytest.approx([part["fid"] for part in parts], rel=1e-6)
    for key in ("fid", "delta_fid", "kid", "kid_holdout", "precision", "recall", "kid_all", "fid_debiased"):
        assert both[key] == pytest.approx((parts[0][key] + parts[1][key]) / 2, rel=1e-5), key
    psi = np.concatenate([part["influence"] for part in parts])
    measured = Measured(tuple(both["fid_values"]), psi)
    assert measured.interval() == pytest.approx((both["fid_low"], both["fid_high"]), rel=1e-6)
    delta = measured.minus(Measured((shared["fid"],) * 2, np.repeat(shared["influence"], 2, axis=0)))
    assert delta.interval() == pytest.approx((both["delta_low"], both["delta_high"]), rel=1e-5)
    assert measured.sampling_interval() == pytest.approx(both["fid_ci95_sampling"], rel=1e-6)


def test_an_ensemble_is_scored_by_its_own_rule(sampled: Tiny) -> None:
    _, layout = sampled
    read = [np.load(layout.discriminator(member) / "test_logits.npz") for member in ("d0", "d1")]
    mean = (read[0]["logits"].astype(float) + read[1]["logits"]) / 2
    # The mistaken rule calls real what has a mean logit of at least 0.5.
    expected = classification_scores(mean - 0.5, read[0]["labels"])["recall"]
    assert evaluated(sampled, "clip_logit")["discriminator_recall"] == pytest.approx(expected)


def test_published_statistics_replace_the_real_images_in_the_distance_alone(sampled: Tiny) -> None:
    _, layout = sampled
    before, path = evaluated(sampled, "d0"), layout.root / "data/raw/statistics.npz"
    mu, sigma = gaussian_statistics(np.load(layout.model("fid_network") / "features.npz")["train"])
    write_npz(path, mu=mu, sigma=sigma)
    same = evaluated(sampled, "d0", evaluation__reference="data/raw/statistics.npz")
    for key in ("fid", "fid_low", "delta_fid", "delta_high"):
        assert same[key] == pytest.approx(before[key], rel=1e-6), key
    assert same["reference_statistics"] == "data/raw/statistics.npz"
    write_npz(path, mu=mu + 1, sigma=sigma)
    moved = evaluated(sampled, "d0", evaluation__reference="data/raw/statistics.npz")
    assert moved["fid"] != pytest.approx(same["fid"], rel=0.01)
    for key in ("kid", "kid_holdout", "precision", "recall"):
        assert moved[key] == before[key]


def test_files_that_do_not_fit_are_refused_and_nothing_is_written(sampled: Tiny) -> None:
    _, layout = sampled
    statistics, samples = "data/raw/statistics.npz", layout.guided("d0") / "samples.npz"

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=message):
            evaluated(sampled, "d0", **changes)

    refused("the 36 samples 1000000 .. 1000035", guided__images=36)
    refused("kid_subset_size of at most", evaluation__kid_subset_size=24)
    write_npz(layout.root / statistics, mu=np.zeros(2048), sigma=np.eye(2048))
    refused(r"mu of shape \(6,\)", evaluation__reference=statistics)
    arrays = dict(np.load(samples))
    write_npz(samples, images=arrays["images"], index=arrays["index"] + 1)
    refused(r"the 24 samples .* got 24 images with indices \[1000001\]")
    write_npz(layout.model("fid_network") / "features.npz", train=np.ones((5, 6)), holdout=np.ones((5, 6)))
    refused("neighborhood of at most 3", evaluation__neighborhood=4, evaluation__kid_subset_size=2)
    assert not layout.evaluation("d0").exists()
