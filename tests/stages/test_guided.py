"""Stage `guided`."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from discriminator_guidance.artifacts.weights import load_weights, save_weights
from discriminator_guidance.errors import DivergenceError, InputError
from discriminator_guidance.stages.guided import clip_events

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


def broken_member(study: Study, folder, member: str, fault: float) -> Study:
    """A copy of the study in which the last layer of a member has a weight that is not finite."""
    again = Study(folder / "broken")
    shutil.copytree(study.root, again.root, ignore=shutil.ignore_patterns(".partial"))
    state, arguments = load_weights(again.layout.discriminator(member), "discriminator")
    name = [key for key, tensor in state.items() if tensor.ndim >= 2][-1]
    state[name].view(-1)[0] = fault
    save_weights(again.layout.discriminator(member), state, arguments)
    return again


def test_a_member_that_is_not_finite_is_named(study: Study, tmp_path):
    study.ensure("guided", "ensemble_probability")
    again = broken_member(study, tmp_path, "d1", float("nan"))
    with pytest.raises(DivergenceError, match=r"of member d1 at noise level sigma = .* in sample 1000000 and 7 more"):
        again.run("guided", "ensemble_probability")


def test_dropped_guidance_is_counted_and_told(study: Study, tmp_path):
    study.ensure("guided", "ensemble_probability")
    again = broken_member(study, tmp_path, "d1", float("nan"))
    again.settings["guided"]["on_nonfinite"] = "drop_guidance"
    result = again.run("guided", "ensemble_probability")
    way = np.load(again.layout.guided("ensemble_probability") / "trajectory.npz")
    assert (way["dropped"] > 0).all()
    assert result.summary["dropped"] == way["dropped"].sum()
    assert any("left out at some noise level of 24 samples" in line for line in again.notices)
    edm, broken = load(study, "edm"), np.load(again.layout.guided("ensemble_probability") / "samples.npz")
    assert np.array_equal(edm["images"], broken["images"])  # nothing else was ever applied


def test_clipped_log_ratios_are_counted():
    ratio = np.array([[11.512925, -11.512925, np.inf], [11.4, 0.0, -11.5129]], dtype=np.float32)
    assert clip_events(ratio) == 3


def test_clip_events_are_part_of_the_result(study: Study):
    study.ensure("guided", "ensemble_clipped_logit")
    ratio = load(study, "ensemble_clipped_logit", "trajectory")["log_ratio"]
    told = study.results["guided", "ensemble_clipped_logit"].summary["clipped"]
    assert told == clip_events(ratio)
    assert 0 < told <= np.isfinite(ratio).sum()
