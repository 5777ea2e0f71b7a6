"""dvc.yaml, params.yaml, configs, commands, modules and folders use the same words and the same lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from discriminator_guidance.artifacts.closure import SOURCE, import_closure
from discriminator_guidance.config import Config, load_tuned, rows_file
from tests.project_files import project_config, project_yaml

PROJECT = Path(__file__).resolve().parents[1]
WORDS = (
    "real",
    "score",
    "extractor",
    "fid_network",
    "fake",
    "discriminator",
    "guided",
    "evaluation",
    "report",
)
PIPELINE = project_yaml("dvc.yaml")
FAMILIES = project_yaml("families/params.yaml")
PROFILES = sorted(path.stem for path in (PROJECT / "configs").glob("*.yaml") if not path.stem.endswith(".tuned"))


def lists(profile: str) -> dict:
    """The lists of the pipeline that builds a profile."""
    return FAMILIES if profile == FAMILIES["profile"] else project_yaml(rows_file(profile))


def word_of(stage: str) -> str:
    return next(word for word in WORDS if stage == word or (stage.startswith(f"{word}_") and stage != "fid_network"))


def templates() -> list[Path]:
    """What the report reads beside its code."""
    return list((SOURCE / "report" / "templates").iterdir())


def paths(entries: list) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize("stage", PIPELINE["stages"])
def test_code_dependencies_are_the_import_closure(stage):
    word = word_of(stage)
    assert f"closures/{word}" in PIPELINE["stages"][stage]["deps"]
    linked = {link.name: link.resolve() for link in (PROJECT / "closures" / word).iterdir() if link.is_symlink()}
    files = {*import_closure(f"stages.{word}"), *(templates() if stage == "report" else ())}
    real = {".".join(path.relative_to(SOURCE).parts): path for path in files}
    assert linked == real, "run `make closures`"


@pytest.mark.parametrize("stage", PIPELINE["stages"])
def test_one_word_names_stage_command_module_section_and_folder(stage):
    word, entry = word_of(stage), PIPELINE["stages"][stage]
    assert entry["cmd"].startswith(f"dguide {word} --profile ${{item.profile}}")
    assert (SOURCE / "stages" / f"{word}.py").is_file()
    assert word in Config.model_fields
    made = [*paths(entry.get("outs", [])), *paths(entry.get("metrics", []))]
    allowed = {"report": "reports/${item.profile}/", "evaluation": "reports/${item.profile}/evaluation/"}
    for path in made:
        assert f"/{word}/" in path or path.startswith(allowed.get(word, "-")), path


def test_every_command_of_a_stage_exists():
    from typer.main import get_command

    from discriminator_guidance.cli import app

    assert set(WORDS) <= set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_listed_member_and_variant_is_configured(profile):
    config, tuned, listed = project_config(profile), load_tuned(profile, PROJECT), lists(profile)
    chosen = (tuned.discriminator.members, tuned.guided.variants) if tuned else ({}, {})
    assert set(listed["members"]) | set(chosen[0]) == set(config.discriminator.members)
    variants = {"edm", *listed["members"], *listed["d0_variants"], *listed["ensembles"], *listed["families"]}
    assert variants | set(chosen[1]) == set(config.guided.variants)
    assert set(listed["tuned_members"]) == set(chosen[0])
    assert {*listed["tuned_members"], *listed["tuned_ensembles"]} == set(chosen[1])
    for name in listed["d0_variants"]:
        assert config.guided.variants[name].members == ("d0",)
    for name in listed["members"]:
        assert config.guided.variants[name].members == (name,)


@pytest.mark.parametrize(
    "block", ["discriminator", "guided_member", "guided_ensemble", "evaluation_member", "evaluation_ensemble"]
)
def test_tuned_blocks_are_as_their_plain_ones_with_rows_from_the_tuned_file(block):
    plain = PIPELINE["stages"][block]
    tuned = PIPELINE["stages"][f"{block.removesuffix('_member')}_tuned"]
    lists = {"${members}": "${tuned_members}", "${ensembles}": "${tuned_ensembles}"}
    assert tuned["matrix"] == {axis: lists.get(str(names), names) for axis, names in plain["matrix"].items()}
    (whole,) = plain["params"]
    ((file, keys),) = whole.items()
    (row,) = [key for key in keys if key.endswith(".${item.member}") or key.endswith(".${item.variant}")]
    rest = [key for key in keys if key != row]
    assert tuned["params"] == [{file: rest}, {file.replace(".yaml", ".tuned.yaml"): [row]}]
    for key in ("cmd", "deps", "outs", "metrics"):
        assert tuned.get(key) == plain.get(key), key


@pytest.mark.parametrize("word", ["guided", "evaluation"])
def test_families_are_as_ensembles_with_members_of_their_name(word):
    stages = PIPELINE["stages"]
    plain, family = stages[f"{word}_ensemble"], stages[f"{word}_family"]
    assert family["matrix"] == plain["matrix"] | {"variant": "${families}"}
    assert family["deps"] == [
        dep.replace("/discriminator/d", "/discriminator/${item.variant}") for dep in plain["deps"]
    ]
    for key in ("wdir", "cmd", "params", "outs", "metrics"):
        assert family.get(key) == plain.get(key), key


@pytest.mark.parametrize("profile", PROFILES)
def test_dependencies_on_members_match_the_configuration(profile):
    config, listed_names = project_config(profile), lists(profile)
    for block, key in [("d0", "d0_variants"), ("ensemble", "ensembles"), ("family", "families")]:
        for word, file in [("guided", "model.safetensors"), ("evaluation", "test_logits.npz")]:
            deps = PIPELINE["stages"][f"{word}_{block}"]["deps"]
            listed = {d.split("/")[3] for d in deps if "/discriminator/" in d and d.endswith(file)}
            for name in listed_names[key]:
                needed = {member.replace("${item.variant}", name) for member in listed}
                assert needed == set(config.guided.variants[name].members), f"{word}_{block}: {name}"


def test_results_survive_a_failed_stage():
    for stage, entry in PIPELINE["stages"].items():
        for item in [*entry.get("outs", []), *entry.get("metrics", [])]:
            assert isinstance(item, dict), f"{stage}: {item}"
            assert next(iter(item.values()))["persist"], f"{stage}: {item}"


def test_closure_sees_imports_inside_functions_and_ignores_type_checking():
    names = {path.name for path in import_closure("stages.real")}
    assert "config.py" not in names  # imported for types only
    assert {"real.py", "seeds.py", "files.py", "errors.py"} <= names
    assert "edm.py" not in names
