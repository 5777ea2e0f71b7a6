"""Stage `evaluation`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from discriminator_guidance.artifacts.files import read_json

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
    import shutil

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
    from discriminator_guidance.stages import evaluation

    study.ensure("evaluation", "d0")
    before = set(study.layout.feature_cache.glob("*.npz"))
    monkeypatch.setattr(evaluation, "closure_digest", lambda module: "other code")
    study.run("evaluation", "d0")
    assert set(study.layout.feature_cache.glob("*.npz")) > before
