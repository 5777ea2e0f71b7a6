"""What a stage keeps writers away from is what dvc.yaml says that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from discriminator_guidance.artifacts.claims import BusyError
from discriminator_guidance.stages.claims import factorial_claim, reads_of, stage_claim, study_claim
from discriminator_guidance.stages.layout import Layout
from tests.project_files import project_config

from .conftest import dvc_stages

CONFIG = project_config("mini")
NAMED = ("discriminator", "guided", "evaluation")


def examples() -> list[tuple[str, str, str]]:
    """Every block of dvc.yaml with its word and, where it has one, a member or variant of it."""
    names = {
        "d0": "d0_table1",
        "edm": "edm",
        "member": "d1",
        "ensemble": "ensemble_logit",
        "discriminator": "d2",
        "tuned": "tuned",
        "ensemble_tuned": "ensemble_tuned",
    }
    found = []
    for entry in dvc_stages():
        word, _, block = entry.partition("_") if entry != "fid_network" else (entry, "", "")
        if block != "family":  # of another profile
            found.append((entry, word, names.get(block or word, "")))
    return found


def claim_of(path: str) -> str:
    """data/mini/guided/d0/samples.npz -> guided-d0."""
    _, _, word, *rest = path.split("/")
    return f"{word}-{rest[0].removesuffix('.json')}" if word in NAMED else word


@pytest.mark.parametrize(("entry", "word", "name"), examples())
def test_reads_are_the_dependencies(entry: str, word: str, name: str) -> None:
    deps = [dep for dep in dvc_stages()[entry]["deps"] if not dep.startswith("closures/")]
    filled = [
        dep.replace("${item.profile}", "mini").replace("${item.member}", name).replace("${item.variant}", name)
        for dep in deps
    ]
    folders = {f"reports/mini/{stage}" for stage in NAMED} | {"data/mini/evaluation"}
    known = set(reads_of(CONFIG, word, name))
    assert {claim_of(path) for path in filled if path not in folders} <= known
    if word != "report":  # depends on folders; what they hold is claimed one by one
        assert known - {"discriminator-d1"} <= {claim_of(path) for path in filled}  # d2 goes on from d1


def test_a_study_keeps_writers_away_and_lets_other_studies_in(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "mini")
    with study_claim(CONFIG, layout, "ensemble"), study_claim(CONFIG, layout, "discriminator"):
        with (
            pytest.raises(BusyError, match=r"dguide score.*dguide study ensemble"),
            stage_claim(CONFIG, layout, "score", {}),
        ):
            pass
        with stage_claim(CONFIG, layout, "evaluation", {"variant": "d0"}), factorial_claim(CONFIG, layout):
            pass
