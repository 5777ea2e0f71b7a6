"""Command `plan`: counts that hold in real runs, and missing files."""

from pathlib import Path

import pytest
import torch

from dguide.settings import Config, load_config
from dguide.tools import fetch, plan
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.sampling.guidance import DiscriminatorGuidance
from discriminator_guidance.sampling.sampler import heun as sample
from tests.commands import PROJECT
from tests.settings.settings import MINI, read
from tests.stages.conftest import tiny_settings, write_params


def calls(config: Config) -> dict[str, dict[plan.Kind, float]]:
    return dict(plan.stage_calls(config, 1438, 359))


def test_counts_of_mini_by_hand():
    config = read({})
    stages, head = calls(config), config.discriminator.network
    assert list(stages)[:4] == ["score", "extractor", "fid_network", "fake"]
    assert stages["score"] == {("training_step", "score"): 300 * 64}
    assert stages["fid_network"] == {("training_step", "fid_network"): 300 * 128, ("features",): 1797}
    assert stages["fake"] == {("denoiser",): 1438 * 23}
    # 60 epochs times 0.2, of 2,300 of 2,876 pairs in 18 batches of 128.
    assert stages["discriminator/d0"] == {("head_step", head): pytest.approx(1.1 * 12 * 18 * 128)}
    assert stages["guided/edm"] == {("denoiser",): 500 * 23}
    assert list(stages["guided/mean_prob"]) == [("denoiser",), ("guidance", *(head,) * 6)]
    assert stages["evaluation"]["features",] == 500 * len(config.variants)


def test_fine_tuning_is_counted():
    tuned = {"images": 100, "iterations": 10, "learning_rate": 1e-4, "seed": 1}
    counts = calls(read({"score.finetuned": {"tuned": tuned, "ddo": tuned | {"objective": "ddo", "seed": 2}}}))["score"]
    assert counts == {("training_step", "score"): (300 + 10 + 2 * 10) * 64, ("denoiser",): 2 * 10 * 64 + 35 * 100}


def test_kid_is_counted_for_many_images():
    many = {"guided.images": 50_000}
    products = [calls(read(changes))["evaluation"]["product",] for changes in ({}, many)]
    assert products[1] > 1000 * products[0]


@pytest.mark.parametrize("window", [(0.01, 1.0), (0.2, 0.6), (0.9995, 1.0)])
@pytest.mark.parametrize(("w1", "w2"), [(2.0, 2.0), (2.0, 0.0), (0.0, 2.0)])
def test_the_sampler_calls_the_networks_as_often_as_counted(window, w1, w2):
    config = read({"variants.d0": MINI["variants"]["d0"] | {"w1": w1, "w2": w2, "window": list(window)}})
    variant = config.variants["d0"]
    asked = {"denoiser": 0, "guidance": 0}

    def denoiser(x, sigma):
        asked["denoiser"] += 1
        return 0.5 * x

    def log_ratio(x_vp, tau):
        asked["guidance"] += 1
        return x_vp.flatten(1).sum(1)

    guidance = DiscriminatorGuidance(log_ratio, window=variant.window)
    sample(denoiser, guidance, torch.ones(2, 1, 4, 4), lambda step, raised: None, SamplerSettings.of(variant))
    counted = calls(config)["guided/d0"]
    assert counted["denoiser",] == 500 * asked["denoiser"]
    assert sum(counted.values()) == 500 * sum(asked.values())


def test_missing_files_are_named_with_their_key_and_the_way_to_get_them(tmp_path):
    config = load_config(PROJECT / "configs/cifar10.yaml")
    lines = {file.split(" (")[0]: f"{file}: {how}" for file, how in fetch.missing_files(config, tmp_path)}
    assert "(real.path): `dguide fetch --list`" in lines["data/raw/cifar-10-binary.tar.gz"]
    assert "(members.authors.start): " in lines["data/raw/discriminator_60.pt"]
    assert "edm-fid" not in "".join(lines)  # no setting names it
    assert fetch.missing_files(read({}), PROJECT) == []
    (tmp_path / "data/raw/fashion").mkdir(parents=True)  # empty, as after a download that failed
    ((file, _),) = fetch.missing_files(load_config(PROJECT / "configs/fashion16.yaml"), tmp_path)
    assert file == "data/raw/fashion (real.path)"


def test_every_kind_of_call_of_a_tiny_profile_is_timed(tmp_path: Path):
    whole = {"members.d1": MINI["members"]["d1"] | {"kind": "whole"}}
    config, layout = write_params(tmp_path, tiny_settings({"cond": True} | whole))
    assert calls(config)["discriminator/d1"].keys() == {("head_step", config.discriminator.network.model_channels)}
    seconds = plan.estimate(config, layout, 0.0)
    others = ["evaluation", "report", "start of commands", "total"]
    assert len(seconds) == 4 + len(config.members) + len(config.variants) + len(others)
    assert all(took > 0 for took in seconds.values())
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
