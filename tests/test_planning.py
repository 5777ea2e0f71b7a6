"""Command `plan`: counts that hold in real runs, arithmetic on a machine with a fake clock, missing files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from discriminator_guidance import planning
from discriminator_guidance.config import Config, load_config
from discriminator_guidance.guidance.density_ratio import guidance_score
from discriminator_guidance.guidance.sampler import sample
from discriminator_guidance.planning import Estimate, Kind, RealImages
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.sampling import sampler_settings, window_of
from tests.commands import PROJECT
from tests.config.settings import changed
from tests.stages.conftest import tiny_settings

DIGITS = RealImages((1, 16, 16), 10, 1438, 359)


def settings(data: dict) -> Config:
    return Config.model_validate_json(json.dumps(data))


def runs(config: Config, real: RealImages = DIGITS) -> dict[str, Estimate]:
    return {each.stage: each for each in planning.stage_runs(config, real)}


def test_counts_of_mini_by_hand():
    config = settings(changed({}))
    stages, head = runs(config), config.discriminator.network
    assert list(stages)[:5] == ["real", "score", "extractor", "fid_network", "fake"]
    assert sum(name.startswith("guided/") for name in stages) == len(config.variants)
    assert stages["score"].calls == {Kind("score step"): 300 * 64}
    assert stages["fid_network"].calls == {Kind("fid_network step"): 300 * 128, Kind("fid features"): 1797}
    assert stages["fake"].calls == {Kind("denoiser"): 1438 * 23}
    # 60 epochs times 0.2; 2,300 of 2,876 pairs are for training and 288 for validation, seen at 4 times each.
    assert stages["discriminator/d0"].iterations == 12 * 18
    assert stages["discriminator/d0"].calls == {
        Kind("discriminator step", (head,)): 12 * (2300 + round(0.2 * 1152)) + 2 * 1152
    }
    assert stages["guided/edm"].calls == {Kind("denoiser"): 500 * 23}
    assert list(stages["guided/mean_prob"].calls) == [Kind("denoiser"), Kind("guidance", (head,) * 6)]
    assert stages["evaluation/edm"].calls == {Kind("fid features"): 500}
    assert stages["evaluation/d0"].calls == {Kind("fid features"): 1000}


@pytest.mark.parametrize("window", [(0.01, 1.0), (0.2, 0.6), (0.9995, 1.0)])
@pytest.mark.parametrize(("w1", "w2"), [(2.0, 2.0), (2.0, 0.0)])
def test_the_sampler_calls_the_networks_as_often_as_counted(window, w1, w2):
    row = changed({})["variants"]["d0"] | {"w1": w1, "w2": w2, "window": list(window)}
    config = settings(changed({"variants.d0": row}))
    variant = config.variants["d0"]
    asked = {"denoiser": 0, "guidance": 0}

    def denoiser(x, sigma):
        asked["denoiser"] += 1
        return 0.5 * x

    def log_ratio(x_vp, tau):
        asked["guidance"] += 1
        return x_vp.flatten(1).sum(1)

    def guidance(x, sigma):
        return guidance_score(log_ratio, x, sigma, *window_of(config, variant))

    sample(denoiser, guidance, torch.ones(2, 1, 4, 4), lambda step, raised: None, sampler_settings(config, variant))
    counted = runs(config)["guided/d0"]
    assert counted.nfe == asked["denoiser"]
    assert counted.calls[Kind("denoiser")] == 500 * asked["denoiser"]
    assert planning.guidance_calls(config, variant) == asked["guidance"]


def test_seconds_are_calls_times_their_rates():
    one, two = Kind("denoiser"), Kind("fid features")
    stages = [Estimate("fake", calls={one: 100}), Estimate("evaluation/edm", seconds=1.0, flops=6e9, calls={two: 10})]
    rows = planning.with_seconds(stages, {one: 0.2, two: 0.5}, 2e9, 3.0)
    assert {row.stage: row.seconds for row in rows} == {
        "fake": 20.0, "evaluation/edm": 9.0, "start of 2 commands": 6.0
    }  # fmt: skip
    assert planning.table(rows)[-1] == {"stage": "total", "images": "", "NFE": "", "iterations": "", "time": "35.0 s"}


def test_missing_files_are_named_with_their_key_and_the_way_to_get_them(tmp_path):
    config = load_config(PROJECT / "configs/cifar10.yaml")
    lines = {line.split(" (")[0]: line for line in planning.missing_files(config, tmp_path)}
    assert "(real.path): `dguide fetch cifar10`" in lines["data/raw/cifar-10-python.tar.gz"]
    assert "(members.authors.start): by hand from Google Drive" in lines["data/raw/discriminator_60.pt"]
    assert "(fid_network.path): `dguide fetch inception`" in lines[config.fid_network.path]
    assert "edm-fid" not in "".join(lines)  # no setting names it
    own = settings(changed({"evaluation.reference": "data/raw/elsewhere.npz"}))
    assert "data/raw/elsewhere.npz (evaluation.reference): put it there by hand" in planning.missing_files(
        own, tmp_path
    )
    assert planning.missing_files(settings(changed({})), PROJECT) == []


def test_every_kind_of_call_of_a_tiny_profile_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: None)
    config = settings(tiny_settings({"cond": True}))
    rows = planning.estimate(config, Layout(tmp_path, "mini"), 0.0)
    members, variants = len(config.members), len(config.variants)
    assert len(rows) == 5 + members + 2 * variants + 2  # and the report, and the start of the commands
    assert all(row.seconds > 0 for row in rows if row.calls)
    assert not list(tmp_path.iterdir())
