"""The lists of rows of each profile: what `dvc exp run` composes, what is committed, what is refused."""

from __future__ import annotations

import shutil
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from discriminator_guidance.config import (
    active_profile,
    listed_members,
    load_config,
    load_tuned,
    promote,
    refuse_rows_of_others,
    rows_file,
)
from discriminator_guidance.errors import ConfigError
from tests.project_files import project_config

PROJECT = Path(__file__).resolve().parents[1]
PROFILES = sorted(path.stem for path in (PROJECT / "configs" / "rows" / "profile").glob("*.yaml"))
LISTS = ("members", "d0_variants", "ensembles", "families", "tuned_members", "tuned_ensembles")


def composed(root: Path, *overrides: str) -> str:
    """The params.yaml that `dvc exp run -S ...` writes in a project, by DVC's own composition and settings."""
    from dvc.utils.hydra import compose_and_dump

    settings = ConfigParser()
    settings.read(root / ".dvc" / "config")
    hydra = settings["hydra"]
    assert hydra.getboolean("enabled")
    written = root / "params.yaml"
    compose_and_dump(written, str(root / hydra["config_dir"]), None, hydra["config_name"], "", list(overrides))
    return written.read_text()


def rows(root: Path, *overrides: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(composed(root, *overrides))
    return data


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    (tmp_path / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", tmp_path / ".dvc")
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    return tmp_path


def test_the_committed_lists_are_what_dvc_composes(project: Path):
    committed = (PROJECT / "params.yaml").read_text()
    assert composed(project) == composed(project, "profile=mini") == committed


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_s_lists_have_all_its_rows_and_no_others(project: Path, profile: str):
    listed, config = rows(project, f"profile={profile}"), project_config(profile)
    assert set(listed) == {"profile", "root", *LISTS}
    assert (listed["profile"], listed["root"]) == (profile, ".")
    tuned = load_tuned(profile, PROJECT)
    chosen = set(tuned.discriminator.members) if tuned else set()
    assert set(listed["tuned_members"]) == chosen
    assert [*listed["members"], *listed["tuned_members"]] == list(config.discriminator.members)
    variants = ["edm", *(name for key in LISTS for name in listed[key])]
    assert len(variants) == len(set(variants))
    assert set(variants) == set(config.guided.variants)
    # A copy of the file does for `dvc repro` what the composition does.
    assert YAML(typ="safe", pure=True).load((PROJECT / rows_file(profile)).read_text()) == listed


def test_every_profile_of_the_pipeline_has_lists():
    known = {path.stem for path in (PROJECT / "configs").glob("*.yaml") if not path.stem.endswith(".tuned")}
    families = YAML(typ="safe", pure=True).load((PROJECT / "families" / "params.yaml").read_text())
    assert set(PROFILES) == known - {families["profile"]}
    assert set(families) == {"profile", "root", *LISTS}


def test_lists_can_be_changed_where_the_profile_is_chosen(project: Path):
    whole = rows(project, "profile=cifar10")
    changed = rows(project, "profile=cifar10", "members=[d0,d1]")
    assert changed == whole | {"members": ["d0", "d1"]}


def test_the_authors_discriminator_is_a_row_of_the_full_profiles(project: Path):
    for profile in PROFILES:
        assert ("authors" in rows(project, f"profile={profile}")["members"]) == (profile in ("cifar10", "cifar10-cond"))


def test_members_are_those_of_params_where_it_is_of_the_profile_and_of_the_rows_file_otherwise(project: Path):
    assert active_profile(project) == "mini"
    assert listed_members("cifar10", project)[-1] == "authors"
    composed(project, "members=[d0]")
    assert listed_members("mini", project) == ("d0",)
    composed(project, "profile=cifar10", "members=[d0]")
    assert (listed_members("cifar10", project), listed_members("mini", project)[-1]) == (("d0",), "d5")
    assert listed_members("mini-families", project) == ()
    (project / "params.yaml").unlink()
    assert active_profile(project) is None
    assert listed_members("cifar10", project)[-1] == "authors"


def test_rows_chosen_for_another_profile_are_refused_before_compute(project: Path):
    mini, other = (load_config(profile, project) for profile in ("mini", "cifar10"))
    refuse_rows_of_others("mini", mini, project)
    refuse_rows_of_others("cifar10", other, project)  # run beside the pipeline, whose profile is mini
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("profile: mini", "profile: cifar10"))
    with pytest.raises(ConfigError, match=r"tuned, ensemble_tuned.*`dvc exp run -S profile=cifar10`"):
        refuse_rows_of_others("cifar10", other, project)
    composed(project, "profile=cifar10")
    refuse_rows_of_others("cifar10", other, project)


@pytest.mark.parametrize("key", ["members", "tuned_members", "tuned_ensembles"])
@pytest.mark.parametrize("value", ["5", "word", "[[a]]", "[1]", "{a: b}", "[null]", "true"])
def test_what_is_no_list_of_names_is_one_line(project: Path, key: str, value: str):
    config = load_config("mini", project)
    (project / "params.yaml").write_text(f"profile: mini\n{key}: {value}\n")

    def read() -> None:
        refuse_rows_of_others("mini", config, project)
        listed_members("mini", project)

    with pytest.raises(ConfigError, match=rf"expected a list of names as {key} in params\.yaml"):
        read()


@pytest.mark.parametrize("value", ["5", "[mini]", "0x" + "f" * 5000])
def test_a_profile_that_is_no_word_is_one_line(project: Path, value: str):
    (project / "params.yaml").write_text(f"profile: {value}\n")
    with pytest.raises(ConfigError, match=r"expected the name of a profile as profile in params\.yaml"):
        active_profile(project)


def test_what_is_promoted_stays_listed_however_params_is_composed_next(project: Path):
    member = {"seed": 1, "epochs": 3, "learning_rate": 1e-4, "weight_decay": 0.0, "t_min": 1e-4, "differs": {}}
    variant = {"members": ["tuned"], "rule": "mean_probability", "weights": "equal", "w1": 2.0, "w2": 2.0}
    told = {"study": "discriminator", "trial": 1, "seed": 1, "parameters": {}, "values": {}, "commit": "0"}
    chosen = {"member": member, "variant": variant | {"boosting": False}}
    before = composed(project)
    promote(project, "cifar10", "discriminator", chosen, told)
    assert (project / "params.yaml").read_text() == before  # of another profile
    assert rows(project, "profile=cifar10")["tuned_members"] == ["tuned"]

    promoted = composed(project, "profile=cifar10-small")
    promote(project, "cifar10-small", "discriminator", chosen, told)
    now = (project / "params.yaml").read_text()
    assert now != promoted
    assert composed(project, "profile=cifar10-small") == now  # the same bytes: DVC sees no change
    assert composed(project) == before
