"""Stage `evaluation`."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.evaluation.significance import interval, paired_interval

from .conftest import Study

KEYS = {
    "variant", "n", "fid", "fid_ci95", "delta_fid_vs_edm", "delta_fid_ci95", "kid", "kid_holdout", "precision",
    "recall", "discriminator_precision", "discriminator_recall", "discriminator_accuracy", "discriminator_auroc",
    "fid_network", "seed_start", "params_hash",
}  # fmt: skip


def result(study: Study, variant: str) -> dict:
    study.ensure("evaluation", variant)
    return read_json(study.layout.evaluation(variant), "evaluation")


def test_keys_and_ranges(study: Study):
    d0 = result(study, "d0")
    assert set(d0) >= KEYS
    assert d0["fid_ci95"][0] < d0["fid"] < d0["fid_ci95"][1]
    assert d0["delta_fid_ci95"][0] < d0["delta_fid_vs_edm"] < d0["delta_fid_ci95"][1]
    for key in ("precision", "recall", "discriminator_accuracy", "discriminator_auroc"):
        assert 0 <= d0[key] <= 1
    assert d0["n"] == 24
    assert d0["fid_network"] == "digits network"


def test_the_unguided_variant_differs_from_itself_by_nothing(study: Study):
    edm = result(study, "edm")
    assert edm["delta_fid_vs_edm"] == 0
    assert edm["delta_fid_ci95"] == [0, 0]
    assert edm["discriminator_auroc"] is None


def influence(study: Study, variant: str) -> dict[str, np.ndarray]:
    with np.load(study.layout.influence(variant)) as archive:
        return dict(archive)


def test_influence_is_kept_by_sample_and_gives_the_reported_intervals(study: Study):
    d0, edm = result(study, "d0"), result(study, "edm")
    kept = influence(study, "d0")
    assert kept["influence"].dtype == np.float64
    assert kept["influence"].shape == (24,)
    np.testing.assert_array_equal(kept["index"], np.load(study.layout.guided("d0") / "samples.npz")["index"])
    assert list(interval(d0["fid"], kept["influence"])) == d0["fid_ci95"]
    paired = paired_interval(d0["fid"] - edm["fid"], kept["influence"], influence(study, "edm")["influence"])
    assert list(paired) == pytest.approx(d0["delta_fid_ci95"], abs=1e-12)


@pytest.fixture(scope="module")
def two_ranges(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same 24 samples of d0 and edm, as two ranges of 12."""
    study.ensure("evaluation", "d0")
    settings = copy.deepcopy(study.settings)
    settings["guided"] |= {"images": 12, "ranges": 2}
    halved = Study(tmp_path_factory.mktemp("ranges") / "study", settings=settings)
    shutil.copytree(study.root, halved.root)
    halved.run("evaluation", "d0")
    return halved


def of_range(study: Study, number: int, root: Path) -> dict:
    """The evaluation of one range alone."""
    settings = copy.deepcopy(study.settings)
    settings["guided"] |= {"ranges": 1}
    alone = Study(root / str(number), settings=settings)
    shutil.copytree(study.root, alone.root)
    for variant in ("edm", "d0"):
        path = alone.layout.guided(variant) / "samples.npz"
        arrays = dict(np.load(path))
        part = slice(12 * number, 12 * (number + 1))
        np.savez(path, images=arrays["images"][part], index=arrays["index"][part])
    alone.run("evaluation", "d0")
    return read_json(alone.layout.evaluation("d0"), "evaluation")


def test_ranges_are_evaluated_one_by_one_and_averaged(two_ranges: Study, tmp_path):
    both = read_json(two_ranges.layout.evaluation("d0"), "evaluation")
    first, second = (of_range(two_ranges, number, tmp_path) for number in (0, 1))
    # Features of 24 pictures at once and of 12 may differ in their last place, and a small distance by more.
    assert both["fid_ranges"] == pytest.approx([first["fid"], second["fid"]], rel=1e-7)
    assert both["fid"] == both["fid_ranges_mean"] == pytest.approx((first["fid"] + second["fid"]) / 2)
    assert both["delta_fid_vs_edm"] == pytest.approx((first["delta_fid_vs_edm"] + second["delta_fid_vs_edm"]) / 2)
    assert both["n"] == 12
    # Student's quantile at one degree of freedom times half the difference of two values.
    half_width = 12.706 * abs(first["fid"] - second["fid"]) / 2
    assert both["fid_ranges_ci95"] == pytest.approx([both["fid"] - half_width, both["fid"] + half_width], rel=1e-3)
    errors = [(part["fid_ci95"][1] - part["fid"]) for part in (first, second)]
    assert both["fid_ci95"][1] - both["fid"] == pytest.approx(np.hypot(*errors) / 2)
    for key in ("kid", "kid_holdout", "precision", "recall"):
        assert both[key] == pytest.approx(first[key]), f"{key} is that of the first range"
    kept = influence(two_ranges, "d0")
    assert kept["influence"].shape == kept["index"].shape == (2, 12)


def test_one_range_has_no_scatter(study: Study):
    d0 = result(study, "d0")
    assert d0["fid_ranges"] == [d0["fid"]]
    assert d0["fid_ranges_ci95"] is None


def test_samples_that_do_not_fill_the_ranges_are_refused(two_ranges: Study, tmp_path):
    from discriminator_guidance.errors import InputError

    settings = copy.deepcopy(two_ranges.settings)
    settings["guided"] |= {"ranges": 3}
    wrong = Study(two_ranges.root, settings=settings)
    with pytest.raises(InputError, match="3 x 12 samples"):
        wrong.run("evaluation", "d0")


def test_difference_is_between_the_two_reported_distances(study: Study):
    assert result(study, "d0")["delta_fid_vs_edm"] == pytest.approx(
        result(study, "d0")["fid"] - result(study, "edm")["fid"], abs=1e-9
    )


def test_an_ensemble_is_scored_by_its_own_rule(study: Study):
    from discriminator_guidance.evaluation.classification import classification_scores

    clipped = result(study, "ensemble_clipped_logit")
    read = [np.load(study.layout.discriminator(m) / "test_logits.npz") for m in ("d0", "d1")]
    mean = (read[0]["logits"].astype(float) + read[1]["logits"]) / 2
    # The mistaken rule calls real what has a mean logit of at least 0.5.
    assert clipped["discriminator_recall"] == pytest.approx(classification_scores(mean - 0.5, read[0]["labels"]).recall)


def test_features_are_kept_and_a_damaged_cache_changes_nothing(study: Study):
    first = result(study, "d0")
    kept = sorted(study.layout.feature_cache.glob("*.npz"))
    assert len(kept) >= 4
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    study.run("evaluation", "d0")
    assert read_json(study.layout.evaluation("d0"), "evaluation") == first


def test_a_foreign_cache_file_is_not_believed(study: Study):
    first = result(study, "d0")
    one, other, *_ = sorted(study.layout.feature_cache.glob("*.npz"))
    one.write_bytes(other.read_bytes())
    study.run("evaluation", "d0")
    assert read_json(study.layout.evaluation("d0"), "evaluation") == first


def test_json_has_no_nan(study: Study):
    result(study, "d0")
    json.loads(study.layout.evaluation("d0").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_params_hash_follows_inputs_and_settings(study: Study):
    first = result(study, "d0")["params_hash"]
    assert result(study, "d0_table1")["params_hash"] != first
    study.run("evaluation", "d0")
    assert read_json(study.layout.evaluation("d0"), "evaluation")["params_hash"] == first


def test_samples_of_other_indices_are_not_compared(study: Study, tmp_path):
    from discriminator_guidance.errors import InputError

    study.ensure("evaluation", "d0")
    again = Study(tmp_path / "again", settings=study.settings)
    shutil.copytree(study.root, again.root)
    path = again.layout.guided("d0") / "samples.npz"
    arrays = dict(np.load(path))
    np.savez(path, images=arrays["images"], index=arrays["index"] + 1)
    with pytest.raises(InputError, match="the same sample indices"):
        again.run("evaluation", "d0")


def test_changed_code_does_not_take_features_from_the_cache(study: Study, monkeypatch):
    from discriminator_guidance.stages import features

    study.ensure("evaluation", "d0")
    before = set(study.layout.feature_cache.glob("*.npz"))
    monkeypatch.setattr(features, "closure_digest", lambda module: "other code")
    study.run("evaluation", "d0")
    assert set(study.layout.feature_cache.glob("*.npz")) > before


def changed(study: Study, root: Path, **evaluation: object) -> Study:
    """The study's files with other settings of stage `evaluation`."""
    study.ensure("evaluation", "d0")
    settings = copy.deepcopy(study.settings)
    settings["evaluation"] |= evaluation
    again = Study(root / "again", settings=settings)
    shutil.copytree(study.root, again.root)
    return again


def untouchable(*arguments: object, **named: object) -> None:
    pytest.fail("computed again")


def test_another_neighborhood_never_calls_the_network(study: Study, tmp_path, monkeypatch):
    from discriminator_guidance.stages import features

    again = changed(study, tmp_path, neighborhood=1)
    monkeypatch.setattr(features, "extract_features", untouchable)
    again.run("evaluation", "d0")
    now, before = read_json(again.layout.evaluation("d0"), "evaluation"), result(study, "d0")
    assert (now["fid"], now["kid"]) == (before["fid"], before["kid"])
    assert (now["precision"], now["recall"]) != (before["precision"], before["recall"])


def test_neighbours_of_real_pictures_are_found_once_for_all_variants(study: Study, monkeypatch):
    from discriminator_guidance.stages import features

    first = result(study, "d0")
    monkeypatch.setattr(features, "neighbour_radii", untouchable)
    study.run("evaluation", "d0")
    assert read_json(study.layout.evaluation("d0"), "evaluation") == first


def test_features_are_kept_as_the_network_gave_them(study: Study):
    result(study, "d0")
    kept = [np.load(path)["rows"] for path in study.layout.feature_cache.glob("*.npz")]
    assert {rows.dtype for rows in kept if rows.ndim == 2} == {np.dtype(np.float32)}


def real_statistics(study: Study) -> tuple[np.ndarray, np.ndarray]:
    from discriminator_guidance.evaluation.distances import gaussian_statistics

    real = len(np.load(study.layout.real / "train.npz")["images"])
    kept = [np.load(path)["rows"] for path in study.layout.feature_cache.glob("*.npz")]
    features, *_ = [rows for rows in kept if rows.ndim == 2 and len(rows) == real]
    return gaussian_statistics(features)


def test_published_statistics_replace_the_real_features_in_the_distance_alone(study: Study, tmp_path):
    again, before = changed(study, tmp_path, reference_statistics="ref.npz"), result(study, "d0")
    mu, sigma = real_statistics(study)
    np.savez(again.root / "ref.npz", mu=mu, sigma=sigma)
    again.run("evaluation", "d0")
    now = read_json(again.layout.evaluation("d0"), "evaluation")
    for key in ("fid", "fid_ci95", "delta_fid_vs_edm", "delta_fid_ci95"):
        assert now[key] == pytest.approx(before[key], rel=1e-5), key
    assert now["reference_statistics"] == "ref.npz"
    np.savez(again.root / "ref.npz", mu=mu + 1, sigma=sigma)
    again.run("evaluation", "d0")
    moved = read_json(again.layout.evaluation("d0"), "evaluation")
    assert moved["fid"] != pytest.approx(now["fid"], rel=0.01)
    assert moved["params_hash"] != now["params_hash"]
    for key in ("kid", "kid_holdout", "precision", "recall"):
        assert moved[key] == before[key]


def test_exhausted_memory_halves_the_passes_and_the_blocks_and_is_recorded(study: Study, tmp_path, monkeypatch):
    from discriminator_guidance.stages import evaluation, features

    def short_of_memory(original, position: int, most: int):
        def run(*given, **named):
            if given[position] > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(*given, **named)

        return run

    again, before = changed(study, tmp_path), result(study, "d0")
    most = again.config.evaluation.batch_size // 2
    samples = again.layout.guided("d0") / "samples.npz"
    np.savez(samples, **np.load(samples), halved_batches=np.array([12]))
    shutil.rmtree(again.layout.feature_cache, ignore_errors=True)
    monkeypatch.setattr(features, "extract_features", short_of_memory(features.extract_features, 2, most))
    monkeypatch.setattr(features, "neighbour_radii", short_of_memory(features.neighbour_radii, 2, 500))
    monkeypatch.setattr(evaluation, "precision_recall", short_of_memory(evaluation.precision_recall, 3, 250))
    assert again.run("evaluation", "d0").summary["batch_size"] == most
    assert len(again.notices) == 3
    now = read_json(again.layout.evaluation("d0"), "evaluation")
    recorded = {"halved_batches": [most], "halved_blocks": [500, 250], "guided_halved_batches": [12]}
    assert {key: value for key, value in now.items() if "halved" in key} == recorded
    assert not [key for key in before if "halved" in key]
    for key in ("fid", "kid", "precision", "recall"):
        assert now[key] == pytest.approx(before[key], rel=1e-4), key


def test_a_gpu_stands_with_what_it_made(study: Study, tmp_path, monkeypatch):
    from discriminator_guidance.networks.precision import Compute

    again, before = changed(study, tmp_path), result(study, "d0")
    monkeypatch.setattr(Compute, "record", lambda compute: {"device": "a model"})
    for word, *choice in (["score"], ["fake"], ["discriminator", "d0"], ["guided", "d0"], ["evaluation", "d0"]):
        assert again.run(word, *choice).summary["device"] == "a model", word
    member = again.layout.discriminator_reports / "d0" / "metrics.json"
    for path in (again.layout.evaluation("d0"), member):
        assert read_json(path, "evaluation")["device"] == "a model"
    assert "device" not in before


def test_statistics_of_another_network_are_refused_before_compute(study: Study, tmp_path, monkeypatch):
    from discriminator_guidance.errors import InputError
    from discriminator_guidance.stages import evaluation

    again = changed(study, tmp_path, reference_statistics="ref.npz")
    monkeypatch.setattr(evaluation, "picture_features", untouchable)
    with pytest.raises(InputError, match=r"ref\.npz.*no such file"):
        again.run("evaluation", "d0")
    np.savez(again.root / "ref.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(InputError, match=r"mu of shape \(6,\)"):
        again.run("evaluation", "d0")
