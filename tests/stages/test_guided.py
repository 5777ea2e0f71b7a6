"""Stage `guided`."""

from __future__ import annotations

import numpy as np
import pytest

from discriminator_guidance.errors import InputError

from .conftest import Study
from .resumption import interrupt_and_resume


def load(study: Study, variant: str, name: str = "samples"):
    study.ensure("guided", variant)
    return np.load(study.layout.guided(variant) / f"{name}.npz")


def test_variants_share_their_seeds(study: Study):
    edm, d0 = load(study, "edm", "trajectory"), load(study, "d0", "trajectory")
    assert np.array_equal(edm["states"][0], d0["states"][0])  # the same starting noise
    assert load(study, "edm")["index"].tolist() == load(study, "d0")["index"].tolist()
    assert not np.array_equal(load(study, "edm")["images"], load(study, "d0")["images"])


def test_trajectory_ends_in_the_samples(study: Study):
    from discriminator_guidance.artifacts.images import to_uint8

    way, samples = load(study, "d0", "trajectory"), load(study, "d0")
    assert way["states"].shape == (7, 2, 8, 8, 1)
    assert way["denoised"].shape == (6, 2, 8, 8, 1)
    assert way["log_ratio"].shape == (6, 24)
    assert len(way["sigma"]) == 7
    last = to_uint8(way["states"][-1].transpose(0, 3, 1, 2))
    assert np.abs(last.astype(int) - samples["images"][:2].astype(int)).max() <= 1


def test_log_ratio_is_infinite_only_outside_the_window(study: Study):
    import torch

    from discriminator_guidance.diffusion.vp_time import tau_from_sigma

    way = load(study, "d0", "trajectory")
    tau = tau_from_sigma(torch.from_numpy(way["sigma"][:-1])).numpy()
    inside = (tau >= 0.01) & (tau <= 1.0)
    assert np.isfinite(way["log_ratio"]).all(axis=1).tolist() == inside.tolist()
    assert np.isinf(load(study, "edm", "trajectory")["log_ratio"]).all()


def test_a_variant_may_have_a_window_of_its_own(study: Study, tmp_path):
    import shutil

    import torch

    from discriminator_guidance.diffusion.vp_time import tau_from_sigma

    study.ensure("guided", "d0")
    again = Study(tmp_path / "again")
    shutil.copytree(study.root, again.root)
    again.settings["guided"]["variants"]["d0"]["window"] = [0.3, 0.9]
    again.run("guided", "d0")
    way = np.load(again.layout.guided("d0") / "trajectory.npz")
    tau = tau_from_sigma(torch.from_numpy(way["sigma"][:-1])).numpy()
    inside = (tau >= 0.3) & (tau <= 0.9)
    assert inside.any()
    assert not inside.all()
    assert np.isfinite(way["log_ratio"]).all(axis=1).tolist() == inside.tolist()


def test_evaluation_seeds_are_not_training_seeds(study: Study):
    study.ensure("fake")
    fakes = np.load(study.layout.fake / "samples.npz")
    guided = load(study, "edm")
    assert not set(fakes["index"]) & set(guided["index"])
    assert not {i.tobytes() for i in fakes["images"]} & {i.tobytes() for i in guided["images"]}


def test_a_missing_member_is_named_before_anything_is_drawn(study: Study, tmp_path):
    import shutil

    study.ensure("extractor"), study.ensure("score")
    again = Study(tmp_path)
    for word in ("score", "extractor"):
        shutil.copytree(study.layout.model(word), again.layout.model(word))
    with pytest.raises(InputError, match=r"discriminator/d0/model\.safetensors.*stage discriminator"):
        again.run("guided", "d0")
    assert not again.layout.guided("d0").exists()


@pytest.mark.parametrize("variant", ["d0_table1"])
def test_a_killed_run_resumes_to_the_same_bytes(study: Study, tmp_path, monkeypatch, variant):
    study.ensure("guided", variant)
    again = interrupt_and_resume(study, tmp_path, monkeypatch, "guided", variant)
    for name in ("samples.npz", "trajectory.npz"):
        assert (again.layout.guided(variant) / name).read_bytes() == (study.layout.guided(variant) / name).read_bytes()
