"""Stage `evaluation`."""

from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dguide.report.gather import read_differences, read_evaluation
from dguide.stages import evaluation
from dguide.stages.evaluation import classification_scores
from discriminator_guidance.core.errors import UserError
from discriminator_guidance.core.files import write_npz
from discriminator_guidance.core.noise import as_tensor, scaled
from tests.metrics.sets import gaussian_statistics
from tests.settings.settings import MINI

from .conftest import Tiny, load, only, run_stage, tiny_settings, write_params

D1 = MINI["variants"]["d1"]
MEAN = {"members": ["d0", "d1"]}
ROWS = {
    "edm": MINI["variants"]["edm"],
    "d0": MINI["variants"]["d0"],
    "d1": D1,
    "mean_prob": MINI["variants"]["mean_prob"] | MEAN,
    "clip_logit": MINI["variants"]["clip_logit"] | MEAN,
}
SETTINGS = {"variants": ROWS, "report.sampling": ["edm", "d0"]}


@pytest.fixture
def sampled(tiny: Tiny) -> Tiny:
    """The tiny study with 24 samples of every variant, d1 included."""
    _, layout = tiny
    config, _ = write_params(layout.root, tiny_settings(SETTINGS))
    for number, variant in enumerate(config.variants):
        images = np.random.default_rng(number).integers(0, 200 + 10 * number, (24, 8, 8, 1), dtype=np.uint8)
        write_npz(layout.guided(variant) / "samples.npz", images=images, index=config.guided.seed_start + np.arange(24))
    return config, layout


def evaluated(tiny: Tiny, **changes: Any) -> dict[str, dict[str, Any]]:
    """Metrics and details of every variant, after a change of settings."""
    _, layout = tiny
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    config, _ = tiny = write_params(layout.root, tiny_settings(settings))
    run_stage("evaluation", tiny)
    return {name: read_evaluation(layout.report, name) for name in config.variants}


def test_details_hold_what_the_report_expects(sampled: Tiny) -> None:
    results = evaluated(sampled)
    d0, edm = results["d0"], results["edm"]
    expected = {"variant": "d0", "n": 24, "replicates": 1, "nfe": 7, "steps": 4, "members": ["d0"]}
    expected |= {"rule": "mean_probability", "weights": "equal", "w1": 2.0, "boosting": False, "window": [0.01, 1.0]}
    expected |= {"fid_network": "digits network", "reference_statistics": None, "reference_n": 40, "holdout_n": 20}
    assert {key: d0[key] for key in expected} == expected
    assert d0["fid_values"] == [d0["fid"]]
    assert edm["floor"] > 0
    for name in ("fid", "kid"):
        low, high = edm[f"holdout_{name}_ci95"]
        assert low < edm[f"holdout_{name}"] < high
    for name in ("kid", "kid_holdout"):
        low, high = d0[f"{name}_ci95"]
        assert low < d0[name] < high
    assert [edm[key] for key in ("discriminator_auroc", "w1", "members")] == [None, 0, []]


def test_every_variant_is_compared_with_every_other(sampled: Tiny) -> None:
    results = evaluated(sampled)
    _, layout = sampled
    rows = pd.read_csv(layout.report / "details/differences.csv").set_index(["variant", "other"])
    assert set(rows.index) == set(permutations(results, 2))
    assert results["edm"]["delta_fid"] == results["edm"]["delta_high"] == results["edm"]["delta_kid"] == 0
    assert results["edm"]["delta_kid_holdout_ci95"] == [0, 0]
    for name in ("d0", "mean_prob"):
        of_edm, row = results[name], rows.loc[name, "edm"]
        deltas = [of_edm[key] for key in ("delta_fid", "delta_low", "delta_high", "delta_p")]
        assert row[["difference", "low", "high", "p"]].tolist() == pytest.approx(deltas, rel=1e-6)
        for kid in ("kid", "kid_holdout"):
            wanted = [of_edm[f"delta_{kid}"], *of_edm[f"delta_{kid}_ci95"]]
            assert row[[f"{kid}_difference", f"{kid}_low", f"{kid}_high"]].tolist() == pytest.approx(wanted, rel=1e-6)
            assert of_edm[kid] - results["edm"][kid] == pytest.approx(of_edm[f"delta_{kid}"], abs=1e-7)
        assert of_edm["fid"] - results["edm"]["fid"] == pytest.approx(of_edm["delta_fid"], abs=1e-7)
        assert rows.loc[("edm", name), "low"] == -row["high"]


def test_a_row_may_have_a_baseline_of_its_own(sampled: Tiny) -> None:
    _, layout = sampled
    rows = {**ROWS, "null": ROWS["edm"] | {"steps": 5}, "d1": D1 | {"baseline": "null"}}
    write_npz(layout.guided("null") / "samples.npz", **np.load(layout.guided("d0") / "samples.npz"))
    results = evaluated(sampled, variants=rows)
    for name, baseline in (("d0", "edm"), ("d1", "null")):
        assert results[name]["delta_fid"] == pytest.approx(results[name]["fid"] - results[baseline]["fid"], abs=1e-7)
    assert ("d1", "null") in read_differences(layout.report), "pandas reads null as a number that is none"


def test_the_class_histogram_is_compared_with_that_of_the_real_images(sampled: Tiny) -> None:
    _, layout = sampled
    (variation,) = evaluated(sampled)["d0"]["total_variation_values"]
    network, arrays = load(layout, "fid_network"), np.load(layout.model("fid_network") / "features.npz")
    images = np.load(layout.guided("d0") / "samples.npz")["images"]
    classes = network(scaled(as_tensor(images, torch.device("cpu")))).argmax(dim=1)
    of_real = network.classifier(torch.from_numpy(arrays["train"])).argmax(dim=1)
    shares = [np.bincount(labels, minlength=10) / len(labels) for labels in (classes, of_real)]
    assert variation == pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2, rel=1e-6)


def test_p_values_are_adjusted_but_for_the_planned_comparison(sampled: Tiny) -> None:
    results = evaluated(sampled, report__primary=["d1", "edm"])
    plain = {name: details["delta_p"] for name, details in results.items()}
    adjusted = {name: details["delta_p_adjusted"] for name, details in results.items()}
    assert adjusted["edm"] is None
    assert adjusted["d1"] == plain["d1"]
    smallest = min(("d0", "mean_prob", "clip_logit"), key=lambda name: plain[name])
    assert adjusted[smallest] == pytest.approx(min(1, 3 * plain[smallest]), rel=1e-6)


def test_an_ensemble_is_compared_with_the_mean_of_its_members(sampled: Tiny) -> None:
    results = evaluated(sampled)
    record = results["mean_prob"]["against_members"]
    assert record["alone"] == {"d0": "d0", "d1": "d1"}
    for distance in ("fid", "kid", "kid_holdout"):
        mean = (results["d0"][distance] + results["d1"][distance]) / 2
        prefix = "" if distance == "fid" else f"{distance}_"
        low, difference, high = (record[f"{prefix}{key}"] for key in ("low", "difference", "high"))
        assert difference == pytest.approx(results["mean_prob"][distance] - mean, abs=1e-7)
        assert low < difference < high
    assert results["d0"]["against_members"] is None
    assert results["clip_logit"]["against_members"] is None, "its members were not sampled by its rule"
    for change, alike in (({"w1": 3.0}, False), ({"window": [0.1, 1.0]}, False), ({"baseline": "edm"}, True)):
        other = evaluated(sampled, variants={**ROWS, "d1": D1 | change})
        assert bool(other["mean_prob"]["against_members"]) == alike


def test_replicates_are_evaluated_alone_and_averaged(sampled: Tiny) -> None:
    _, layout = sampled
    names = ("d0", "d1")
    alone = evaluated(sampled)
    for number, variant in enumerate(names):  # as two replicates of d0
        replicate = layout.replicates(2)[number]
        for name, source in (("d0", variant), ("edm", "edm")):
            write_npz(replicate.guided(name) / "samples.npz", **np.load(layout.guided(source) / "samples.npz"))
        logits = layout.discriminator("d0") / "test_logits.npz"
        write_npz(replicate.discriminator("d0") / "test_logits.npz", **np.load(logits))
    both = evaluated(sampled, replicates=2, **only("edm", "d0"))["d0"]
    parts = [alone[name] for name in names]
    assert both["fid_values"] == pytest.approx([part["fid"] for part in parts], rel=1e-6)
    for key in ("fid", "delta_fid", "kid", "kid_holdout", "precision", "recall", "fid_debiased", "delta_kid"):
        assert both[key] == pytest.approx((parts[0][key] + parts[1][key]) / 2, rel=1e-5), key
    assert all(both["fid_low"] < value < both["fid_high"] for value in both["fid_values"])


def test_an_ensemble_is_scored_by_its_rule(sampled: Tiny) -> None:
    _, layout = sampled
    members = [np.load(layout.discriminator(member) / "test_logits.npz") for member in ("d0", "d1")]
    mean = (members[0]["logits"].astype(float) + members[1]["logits"]) / 2
    # The mistaken rule calls real what has a mean logit of at least 0.5.
    expected = classification_scores(mean - 0.5, members[0]["labels"])["recall"]
    assert evaluated(sampled)["clip_logit"]["discriminator_recall"] == pytest.approx(expected)
    shifted = evaluated(sampled, variants={**ROWS, "d1": ROWS["clip_logit"] | {"logit_scale": 0.5, "logit_shift": 0.5}})
    expected = classification_scores(mean, members[0]["labels"])["recall"]
    assert shifted["d1"]["discriminator_recall"] == pytest.approx(expected)


def test_published_statistics_replace_the_real_images_in_the_distance_alone(sampled: Tiny) -> None:
    _, layout = sampled
    before, path = evaluated(sampled)["d0"], layout.root / "data/raw/statistics.npz"
    mu, sigma = gaussian_statistics(np.load(layout.model("fid_network") / "features.npz")["train"])
    write_npz(path, mu=mu, sigma=sigma)
    same = evaluated(sampled, evaluation__reference="data/raw/statistics.npz")["d0"]
    for key in ("fid", "fid_low", "delta_fid", "delta_high"):
        assert same[key] == pytest.approx(before[key], rel=1e-6), key
    assert same["reference_statistics"] == "data/raw/statistics.npz"
    write_npz(path, mu=mu + 1, sigma=sigma)
    moved = evaluated(sampled, evaluation__reference="data/raw/statistics.npz")["d0"]
    assert moved["fid"] != pytest.approx(same["fid"], rel=0.01)
    for key in ("kid", "kid_holdout", "precision", "recall"):
        assert moved[key] == before[key]


def test_files_that_do_not_fit_are_refused_and_nothing_is_written(sampled: Tiny) -> None:
    _, layout = sampled
    statistics, samples = "data/raw/statistics.npz", layout.guided("d1") / "samples.npz"
    arrays = dict(np.load(samples))
    images, index = arrays["images"], arrays["index"]

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=message):
            evaluated(sampled, **changes)

    refused(r"edm/samples.npz has .*, not \(36, 8, 8, 1\) uint8, 1000000 \.\. 1000035", guided__images=36)
    write_npz(layout.root / statistics, mu=np.zeros(6), sigma=np.zeros((6, 6)))
    refused("is no covariance", evaluation__reference=statistics)
    for changed_images, changed_index in ((images, index + 1), (images[:, :3, :3], index), (images / 255.0, index),
                                          (np.repeat(images, 3, axis=3), index)):  # fmt: skip
        write_npz(samples, images=changed_images, index=changed_index)
        refused(r"not \(24, 8, 8, 1\) uint8, .*run stage guided again")
    write_npz(samples, **arrays)
    samples.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "extract_features", lambda *_: pytest.fail("features of other variants"))
        refused("d1/samples.npz does not exist")
    write_npz(samples, **arrays)
    logits = layout.discriminator("d1") / "test_logits.npz"
    write_npz(logits, **{name: array[:-2] for name, array in np.load(logits).items()})
    refused("d0/test_logits.npz have other test images, 30 and 32; give all members as many images")
    write_npz(logits, labels=np.zeros(32), logits=np.full(32, np.nan))
    refused("logits in .* is float64 of .32,., not finite; run stage discriminator again")
    assert not layout.report.exists()
