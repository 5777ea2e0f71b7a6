"""`dguide study`: promotion of a winner, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dguide.settings import load_config, row_of
from dguide.studies.study import promote_winner, run_study, value_settings
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import fingerprint
from tests.commands import PROJECT
from tests.stages.conftest import tiny_settings, write_params

ROW = {"needs": "discriminator", "members": ["d0", "d1"], "rule": "mean_logit", "weights": [0.25, 0.75], "w1": 1.5,
       "w2": 0.5, "boosting": True, "window": [0.02, 0.9]}  # fmt: skip
RECORD = {
    "study": "ensemble",
    "seed": 20,
    "winner": {"trial": 7, "values": {"fid": 0.8, "start_fid": 1.7}, "params": {"weight_d0": 0.5}},
    "rows": {"variants": {"tuned_mean": ROW}},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The settings of mini in place, and the record of a search."""
    (tmp_path / "configs").mkdir()
    for target in ("configs/mini.yaml", "params.yaml"):
        shutil.copy(PROJECT / "configs/mini.yaml", tmp_path / target)
    folder = tmp_path / "reports/mini/study"
    folder.mkdir(parents=True)
    (folder / "ensemble.json").write_text(json.dumps(RECORD))
    (folder / "promoted.json").write_text('{"discriminator": {"trial": 3}}')
    return tmp_path


def test_promotion_changes_one_row_in_both_files_and_keeps_comments(project: Path):
    before = (project / "params.yaml").read_text().splitlines()
    promote_winner(project, "ensemble")
    for path in ("params.yaml", "configs/mini.yaml"):
        after = (project / path).read_text().splitlines()
        differing = [line for line in after if line not in before]
        assert [line.split(":")[0].strip() for line in differing] == ["tuned_mean"]
        assert len(after) == len(before) + 1
        variant = load_config(project / path).variants["tuned_mean"]
        assert row_of(load_config(project / path), variant) == ROW
    promoted = json.loads((project / "reports/mini/study/promoted.json").read_text())
    assert promoted["discriminator"] == {"trial": 3}, "the other study's winner stays"
    assert promoted["ensemble"]["values"] == {"fid": 0.8, "start_fid": 1.7}


def test_a_winner_that_does_not_fit_changes_nothing(project: Path):
    record = json.loads(json.dumps(RECORD))
    record["rows"]["variants"]["tuned_mean"]["members"] = ["d0", "d9"]
    (project / "reports/mini/study/ensemble.json").write_text(json.dumps(record))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="d9"):
        promote_winner(project, "ensemble")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_a_profile_without_studies_is_refused(tmp_path: Path):
    tiny = write_params(tmp_path, tiny_settings({"study": None}))
    with pytest.raises(ConfigError, match="study: null"):
        run_study("ensemble", *tiny, "8", False)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("journal", sorted(PROJECT.glob("reports/*/study/*.journal")), ids=str)
def test_the_searches_in_git_can_be_continued(journal: Path):
    profile = journal.parts[-3]
    settings = value_settings(load_config(PROJECT / f"configs/{profile}.yaml"), journal.stem)
    assert f'{{"settings":"{fingerprint(settings)}"}}' in journal.read_text()


def test_nothing_to_promote_is_refused(project: Path):
    with pytest.raises(InputError, match=r"discriminator\.json; got no such file; run `dguide study discriminator`"):
        promote_winner(project, "discriminator")
