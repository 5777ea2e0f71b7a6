"""The profiles of CIFAR-10: the study's tables to the letter, whole registries, a pipeline that resolves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from discriminator_guidance.config import load_tuned
from discriminator_guidance.report.published import STUDY_IMAGES, STUDY_MEMBERS, STUDY_SAMPLING
from tests.amount import FULL as EVERYTHING
from tests.project_files import project_config
from tests.test_rows import composed

PROJECT = Path(__file__).resolve().parents[1]
FULL = ("cifar10", "cifar10-cond")
READER = YAML(typ="safe", pure=True)


@pytest.mark.parametrize("profile", FULL)
def test_sampling_is_table_1(profile):
    config, study = project_config(profile), STUDY_SAMPLING
    sampler, guided = config.sampler, config.guided
    assert (sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho, sampler.s_churn) == (
        study.steps,
        study.sigma_min,
        study.sigma_max,
        study.rho,
        study.s_churn,
    )
    assert (guided.images, config.fake.images) == (STUDY_IMAGES, STUDY_IMAGES)
    assert guided.batch_size == config.fake.batch_size == study.batch_size
    assert (guided.time_min, guided.time_max) == (study.time_min, study.time_max)
    assert config.real.image_size == study.image_size
    w1 = 1.0 if config.cond else study.w1  # the official code's for classes
    for name in ("authors", "d0_table1", "ensemble_probability_table1", "ensemble_clipped_logit_table1"):
        variant = guided.variants[name]
        assert (variant.w1, variant.w2, variant.boosting) == (w1, study.w2, study.boosting), name


@pytest.mark.parametrize("profile", FULL)
def test_training_is_table_2(profile):
    settings = project_config(profile).discriminator
    assert (settings.epoch_factor, settings.learning_rate_factor) == (1.0, 1.0)
    for name, study in STUDY_MEMBERS.items():
        row = settings.members[name]
        given = (row.epochs, row.learning_rate, row.weight_decay, row.t_min, settings.batch_size)
        assert given == (study.epochs, study.learning_rate, study.weight_decay, study.t_min, study.batch_size), name


def test_cifar10_has_the_variants_of_mini_and_the_authors():
    mini, full = (project_config(profile).guided.variants for profile in ("mini", "cifar10"))
    chosen = load_tuned("mini", PROJECT).guided.variants
    assert {name: row for name, row in full.items() if name != "authors"} == {
        name: row for name, row in mini.items() if name not in chosen
    }


def test_conditional_guidance_weighs_the_euler_step_with_1():
    config = project_config("cifar10-cond")
    assert config.cond
    assert {variant.w1 for name, variant in config.guided.variants.items() if name != "edm"} == {1.0}


@pytest.mark.parametrize("profile", FULL)
def test_every_file_a_profile_names_is_in_its_registry_as_documented(profile):
    config = project_config(profile)
    offered = {file.path for file in config.fetch.files.values()}
    members = [row.path for row in config.discriminator.members.values() if hasattr(row, "path")]
    named = {config.real.path, config.score.path, config.extractor.path, config.fid_network.path, *members}
    assert named == {path for path in offered if not path.endswith(".npz")}
    (block,) = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "downloads.md").read_text(), flags=re.DOTALL)
    documented = READER.load(block)["fetch"]["files"]
    written = READER.load((PROJECT / "configs" / f"{profile}.yaml").read_text())["fetch"]["files"]
    assert written == {name: documented[name] for name in written}


def copied(root: Path, profile: str) -> Path:
    """What DVC reads, with the lists of a profile, and no result of any stage."""
    for name in ("src", "configs", ".dvc/plots"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(PROJECT / "closures", root / "closures", symlinks=True)
    for name in ("dvc.yaml", ".dvc/config"):
        shutil.copy(PROJECT / name, root / name)
    composed(root, f"profile={profile}")
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    return root


def called(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DGUIDE_TRACKING": "off"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not EVERYTHING, reason="DVC in a dry run: make test-full; test_rows.py compares the lists")
@pytest.mark.parametrize("profile", FULL)
def test_a_dry_run_resolves_every_stage(profile, tmp_path):
    root = copied(tmp_path, profile)
    # --force, because DVC's dry run looks stages up in its run cache, by hashes of files that no stage has made yet.
    done = called(root, sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "--force")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    stages = [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]
    config = project_config(profile)
    single = [f"{word}@{profile}" for word in ("real", "score", "extractor", "fid_network", "fake", "report")]
    each = [f"discriminator@{profile}-{member}" for member in config.discriminator.members]
    variants = {stage.rpartition(f"@{profile}-")[2] for stage in stages if stage.startswith(("guided", "evaluation"))}
    assert {*single, *each} <= set(stages)
    assert variants == set(config.guided.variants)
    assert len(stages) == len(single) + len(each) + 2 * len(variants)


def in_git(root: Path) -> Path:
    """The same as a git checkout, which `dvc exp` needs."""
    (root / ".dvc" / "config.local").unlink()
    (root / ".gitignore").write_text("/.dvc/tmp\n/.dvc/cache\n/data\n")
    for command in ("init -q", "config user.name t", "config user.email t@example.org", "add .", "commit -q -m all"):
        done = called(root, "git", *command.split())
        assert done.returncode == 0, done.stderr
    return root


@pytest.mark.skipif(not EVERYTHING, reason="a whole `dvc exp run`: make test-full; its parts have tests of their own")
def test_the_command_of_the_full_study_runs_as_typed_and_names_the_files_it_needs(tmp_path):
    root = in_git(copied(tmp_path, "mini"))
    done = called(root, sys.executable, "-m", "dvc", "exp", "run", "-S", "profile=cifar10")
    assert done.returncode != 0
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "expected the files" in line]
    files = (
        "cifar-10-python.tar.gz",
        "uncond-vp.pkl",
        "32x32_classifier.pt",
        "weights-inception",
        "discriminator_60.pt",
    )
    for name in files:
        assert name in line
    assert "dguide fetch --profile cifar10" in line
    assert "without authors: `dvc exp run -S profile=cifar10 -S 'members=[d0,d1,d2,d3,d4,d5]'`" in line
    assert not [path for path in (root / "data").rglob("*") if path.is_file() and path.name != ".gitignore"]
    lists = (root / "params.yaml").read_text()
    assert lists == composed(root, "profile=cifar10")


@pytest.mark.skipif(not EVERYTHING, reason="make test-full queues")
def test_experiments_of_several_profiles_can_be_queued(tmp_path):
    root = in_git(copied(tmp_path, "mini"))
    queue = (sys.executable, "-m", "dvc", "exp", "run", "--queue", "-S", "profile=cifar10,cifar10-cond")
    done = called(root, *queue, "-S", "members=[d0]")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Queued experiment") == 2
    last = called(root, "git", "show", "refs/exps/celery/stash:params.yaml").stdout
    assert READER.load(last) == READER.load(composed(root, "profile=cifar10-cond", "members=[d0]"))
