"""The profiles in configs/: valid, the reproduction's tables to the letter, and activated without losing edits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dguide.settings import Config, load_config, use_profile
from discriminator_guidance.errors import ConfigError

from .settings import PROJECT

PROFILES = {path.stem: load_config(path) for path in (PROJECT / "configs").glob("*.yaml")}
FULL = [PROFILES["cifar10"], PROFILES["cifar10-cond"]]
TABLE_2 = {  # epochs, learning rate, weight decay, t_min
    "d0": (60, 3e-4, 1e-7, 1e-5),
    "d1": (40, 1e-3, 1e-7, 1e-5),
    "d2": (40, 1e-4, 0.0, 0.01),
    "d3": (40, 1e-4, 1e-3, 1e-3),
    "d4": (40, 5e-5, 1e-9, 1e-3),
    "d5": (200, 1e-5, 1e-11, 1e-5),
}


def test_params_is_mini_and_the_profiles_are_there() -> None:
    assert (PROJECT / "params.yaml").read_bytes() == (PROJECT / "configs/mini.yaml").read_bytes()
    cifar10 = {f"cifar10{kind}" for kind in ("", "-small", "-cond", "-reproduction")}
    assert set(PROFILES) == {"mini", "digits", *cifar10}
    for name, config in PROFILES.items():
        assert config.profile == name


@pytest.mark.parametrize("config", FULL, ids=lambda config: config.profile)
def test_sampling_is_table_1_and_training_table_2(config: Config) -> None:
    sampler, guided = config.sampler, config.guided
    settings = (sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho, sampler.s_churn)
    assert settings == (35, 0.002, 80.0, 7.0, 0.0)
    assert (guided.images, config.fake.images, guided.batch_size, config.real.image_size) == (50_000, 50_000, 64, 32)
    assert (guided.time_min, guided.time_max) == (0.01, 1.0)
    w1 = 1.0 if config.cond else 2.0  # the official code's weight for a conditional model
    for name in ("authors", "d0_table1", "prob_table1", "clip_table1"):
        variant = config.variants[name]
        assert (variant.w1, variant.w2, variant.boosting) == (w1, 0.0, True), name

    section = config.discriminator
    assert (section.epoch_factor, section.learning_rate_factor, section.batch_size) == (1.0, 1.0, 64)
    for name, expected in TABLE_2.items():
        row = config.members[name]
        assert (row.epochs, row.learning_rate, row.weight_decay, row.t_min) == expected, name


@pytest.mark.parametrize("name", ["cifar10", "cifar10-cond", "cifar10-reproduction"])
def test_every_released_file_can_be_fetched(name: str) -> None:
    config = PROFILES[name]
    starts = {row.start for row in config.members.values() if row.start.startswith("data/raw/")}
    named = {config.real.path, config.score.path, config.extractor.path, config.fid_network.path, *starts}
    assert len(named) == 4 + (6 if name == "cifar10-reproduction" else 1)
    assert named <= {file.path for file in config.fetch.files.values()}


def test_an_unknown_or_broken_profile_changes_nothing(tmp_path: Path) -> None:
    project = tmp_path
    shutil.copytree(PROJECT / "configs", project / "configs")
    use_profile(project, "mini")
    before = (project / "params.yaml").read_bytes()
    (project / "configs/own.yaml").write_bytes(before.replace(b"profile: mini", b"profile: own"))  # paths of mini
    (project / "configs/other.yaml").write_bytes(before)
    for name, complaint in {"nano": "choose one of: cifar10, ", "../x": "choose one of", "own": "own.yaml",
                            "other": "profile: other"}.items():  # fmt: skip
        with pytest.raises(ConfigError, match=complaint):
            use_profile(project, name)
    assert (project / "params.yaml").read_bytes() == before
