"""`dguide study`: promotion of a winner, and refusals."""

import json
import shutil
from pathlib import Path

import pytest

from dguide.settings import load_config, row_of
from dguide.studies.study import value_settings
from dguide.tools.profile import promote_winner
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import fingerprint, write_json
from tests.commands import PROJECT

RECORD = "reports/mini/study/ensemble.json"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The settings of mini in place, and the record of a search, whose winner is not promoted yet."""
    (tmp_path / "configs").mkdir()
    [shutil.copy(PROJECT / "configs/mini.yaml", tmp_path / target) for target in ("configs/mini.yaml", "params.yaml")]
    row = {"needs": "discriminator", "members": ["d0", "d1"], "rule": "mean_logit", "w1": 3.7, "window": [3e-05, 0.6]}
    write_json(tmp_path / RECORD, {"rows": {"variants": {"just_found": row}}})
    return tmp_path


def test_promotion_changes_one_row_in_both_files_and_keeps_comments(project: Path):
    before, record = (project / "params.yaml").read_text().splitlines(), json.loads((project / RECORD).read_text())
    promote_winner(project, "ensemble")
    for path in ("params.yaml", "configs/mini.yaml"):
        after, config = (project / path).read_text().splitlines(), load_config(project / path)
        assert [line.split(":")[0].strip() for line in after if line not in before] == ["just_found"]
        assert len(after) == len(before) + 1
        row = row_of(config, config.variants["just_found"])
        assert row.items() <= record["rows"]["variants"]["just_found"].items()


def test_a_winner_that_does_not_fit_changes_nothing(project: Path):
    record = json.loads((project / RECORD).read_text())
    record["rows"]["variants"]["just_found"]["members"] = ["d0", "d9"]
    (project / RECORD).write_text(json.dumps(record))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="d9"):
        promote_winner(project, "ensemble")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_nothing_to_promote_is_refused(project: Path):
    with pytest.raises(InputError, match=r"discriminator\.json does not exist; run `dguide study discriminator`"):
        promote_winner(project, "discriminator")


@pytest.mark.parametrize("journal", sorted(PROJECT.glob("reports/*/study/*.journal")), ids=str)
def test_the_searches_in_git_can_be_continued(journal: Path):
    config = load_config(PROJECT / f"configs/{journal.parts[-3]}.yaml")
    settings = value_settings(config, journal.stem)
    assert f'{{"settings":"{fingerprint(settings)}"}}' in journal.read_text()
