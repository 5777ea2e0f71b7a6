"""Damage is found in every kind of file, named, and mended by the command that is given."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import numpy as np
import pytest
import torch

from discriminator_guidance.artifacts.checksums import write_checksums
from discriminator_guidance.artifacts.feature_cache import cached_rows
from discriminator_guidance.artifacts.files import sha256, write_json, write_npz
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.artifacts.sealed_json import write_sealed
from discriminator_guidance.artifacts.weights import save_weights
from discriminator_guidance.config import LockedFile, LockedStage, locked_stages
from discriminator_guidance.errors import InputError
from discriminator_guidance.stages import verify
from discriminator_guidance.stages.verify import Damage, Verified

from .conftest import Study

PROJECT = Path(__file__).resolve().parents[2]
PROFILE = "tiny"


def locked(root: Path, path: str) -> LockedFile:
    content = (root / path).read_bytes()
    return LockedFile(path, hashlib.md5(content).hexdigest(), len(content))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two stages of one output each, and one file of every other kind."""
    study = Study(tmp_path)
    layout = study.layout
    for path in (layout.real / "train.npz", layout.evaluation("edm")):
        path.parent.mkdir(parents=True)
    np.savez(layout.real / "train.npz", images=np.zeros(4))
    layout.evaluation("edm").write_text('{"fid": 3.25}\n')
    save_weights(layout.factorial / "d0", {"a": torch.ones(3)}, {"width": 3})
    PartialWork(layout.partial, "score", {"a": 1}, print).save_shard(0, images=np.zeros(4))
    cached_rows(layout.feature_cache, "0" * 64, np.zeros((4, 2), np.uint8), lambda source: source * 1.0)
    write_npz(layout.factorial / "cells" / "a" / "influence.npz", influence=np.zeros(4))
    write_sealed(layout.factorial / "cells" / "a" / "cell.json", {"fid": 3.5}, beside=["influence.npz"])
    write_json(layout.study_reports / "ensemble.json", {"best": 3.25})
    write_json(layout.evaluation("studies"), {"ensemble": sha256(layout.study_reports / "ensemble.json")})
    (layout.report / "factorial").mkdir()
    (layout.report / "factorial" / "cells.csv").write_text("cell,fid\nours,3.25\n")
    write_checksums(layout.report / "factorial" / "factorial.sha256", [layout.report / "factorial" / "cells.csv"])
    layout.study.mkdir(parents=True)
    (layout.study / "ensemble.log").write_text('{"op_code": 0}\n{"op_code": 1}\n')
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (name TEXT)")
        database.executemany("INSERT INTO runs VALUES (?)", [(f"run {i}" * 20,) for i in range(500)])
    database.close()
    return study


def stages(study: Study) -> list[LockedStage]:
    train = locked(study.root, "data/tiny/real/train.npz")
    edm = locked(study.root, "reports/tiny/evaluation/edm.json")
    return [LockedStage("real@tiny", (), (train,)), LockedStage("evaluation_edm@tiny-edm", (train,), (edm,))]


def run(study: Study, stages: list[LockedStage]) -> Verified:
    return verify.run(study.config, study.context, stages)


def test_whole_files_of_every_kind_are_counted(study: Study) -> None:
    verified = run(study, stages(study))
    assert verified.damages == []
    kinds = (
        "weights of studies",
        "results of the factorial",
        "records of studies",
        "tables of studies",
        "unfinished work",
        "cached features",
        "journals",
        "tracking",
    )
    assert verified.checked == dict.fromkeys(kinds, 1) | {"results": 2}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


REPRO = "dvc repro evaluation_edm@tiny-edm"
RESULT = "reports/tiny/evaluation/edm.json"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (flip, "other bytes than dvc.lock records"),
        (shorten, "13 bytes instead of 14"),
        (Path.unlink, "missing"),
    ],
)
def test_a_damaged_result_is_named_with_its_stage(study: Study, damage: Callable[[Path], None], found: str) -> None:
    recorded = stages(study)
    damage(study.root / RESULT)
    assert run(study, recorded).damages == [Damage(RESULT, found, REPRO)]


def test_a_result_that_cannot_be_read_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, whole = stages(study), hashlib.file_digest

    def broken(stream: BufferedReader, *arguments: object) -> object:
        if stream.name.endswith(RESULT):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(stream, *arguments)

    monkeypatch.setattr(hashlib, "file_digest", broken)
    assert run(study, recorded).damages == [Damage(RESULT, "unreadable (Input/output error)", REPRO)]


def test_swapped_results_are_both_named(study: Study) -> None:
    recorded = stages(study)
    paths = [stage.outputs[0].path for stage in recorded]
    one, other = ((study.root / path).read_bytes() for path in paths)
    (study.root / paths[0]).write_bytes(other)
    (study.root / paths[1]).write_bytes(one)
    assert [damage.path for damage in run(study, recorded).damages] == paths


def test_a_result_that_dvc_still_has_is_checked_out(study: Study) -> None:
    recorded = stages(study)
    train = recorded[0].outputs[0]
    kept = study.root / verify.CACHE / train.md5[:2] / train.md5[2:]
    kept.parent.mkdir(parents=True)
    shutil.copyfile(study.root / train.path, kept)
    flip(study.root / train.path)
    (damage,) = run(study, recorded).damages
    assert damage.command == "dvc checkout --force data/tiny/real/train.npz"
    flip(kept)
    (damage,) = run(study, recorded).damages
    assert damage.command == "dvc repro real@tiny"


def test_results_made_from_other_files_are_named(study: Study) -> None:
    real, evaluation = stages(study)
    other = LockedFile(real.outputs[0].path, "0" * 32, 3)
    (damage,) = run(study, [real, LockedStage(evaluation.name, (other,), evaluation.outputs)]).damages
    assert damage == Damage("dvc.lock, evaluation_edm@tiny-edm", "made from another data/tiny/real/train.npz", REPRO)


@pytest.mark.parametrize("damage", [flip, shorten])
@pytest.mark.parametrize(
    ("pattern", "command"),
    [
        ("models/tiny/factorial/d0/model.safetensors", "rm -r models/tiny/factorial/d0 && dguide factorial --profile"),
        ("models/tiny/factorial/d0/model.json", "rm -r models/tiny/factorial/d0 && dguide factorial --profile tiny"),
        ("models/tiny/factorial/cells/a/cell.json", "rm models/tiny/factorial/cells/a/cell.json  # dguide factorial"),
        ("models/tiny/factorial/cells/a/influence.npz", "rm models/tiny/factorial/cells/a/cell.json  # dguide fac"),
        ("reports/tiny/study/ensemble.json", "dguide study ensemble --profile tiny --trials 1"),
        ("reports/tiny/factorial/cells.csv", "dguide factorial --profile tiny"),
        ("reports/tiny/factorial/factorial.sha256", "dguide factorial --profile tiny"),
        (".partial/tiny/*/*.sealed", "rm .partial/tiny/score-"),
        (".cache/features/*.npz", "rm .cache/features/"),
    ],
)
def test_damage_beside_the_pipeline_is_named(
    study: Study, pattern: str, command: str, damage: Callable[[Path], None]
) -> None:
    (path,) = study.root.glob(pattern)
    if path.suffix == ".json" and damage is shorten:
        path.write_bytes(path.read_bytes()[:-3])
    else:
        damage(path)
    (found,) = run(study, stages(study)).damages
    assert found.command.startswith(command)


def test_what_tells_of_the_records_of_studies_may_be_damaged_or_a_record_missing(study: Study) -> None:
    record, stamps = study.layout.study_reports / "ensemble.json", study.layout.evaluation("studies")
    record.unlink()
    (missing,) = run(study, stages(study)).damages
    assert (missing.path, missing.found) == ("reports/tiny/study/ensemble.json", "missing")
    stamps.write_text("{")
    (damage,) = run(study, stages(study)).damages
    assert damage.command.startswith("rm reports/tiny/evaluation/studies.json")


def test_a_missing_table_of_a_study_is_named(study: Study) -> None:
    table = study.layout.study_reports / "ensemble.csv"
    table.write_text("number\n0\n")
    write_checksums(table.with_suffix(".sha256"), [table])
    assert run(study, stages(study)).damages == []
    table.unlink()
    (damage,) = run(study, stages(study)).damages
    again = "dguide study ensemble --trials 1 --profile tiny"
    assert damage == Damage("reports/tiny/study/ensemble.csv", "missing", again)


def test_losses_and_cells_of_before_there_were_checksums_are_no_damage(study: Study) -> None:
    write_json(study.layout.factorial / "members" / "b" / "d0" / "losses.json", {"epoch": 3})
    write_json(study.layout.factorial / "members" / "b" / "losses.json", {"d0": {"epoch": 3}})
    verified = run(study, stages(study))
    assert (verified.damages, verified.checked["results of the factorial"]) == ([], 3)


def test_a_damaged_journal_is_told_from_a_torn_last_line(study: Study) -> None:
    path = study.layout.study / "ensemble.log"
    shorten(path)
    (torn,) = run(study, stages(study)).damages
    assert torn.found == "its last line is torn"
    path.write_text('{"op_code": 0\n{"op_code": 1}\n')
    (damage,) = run(study, stages(study)).damages
    assert damage.found == "line 1 is no JSON"


@pytest.mark.parametrize("kept", [50, 5000])
def test_a_damaged_tracking_database_is_replaced(study: Study, kept: int) -> None:
    path = study.root / "mlflow.db"
    path.write_bytes(path.read_bytes()[:kept])
    (damage,) = run(study, stages(study)).damages
    assert damage.path == "mlflow.db"
    assert damage.command == "mv mlflow.db mlflow.db.damaged && dguide prepare"


def test_litter_of_killed_writes_is_named(study: Study) -> None:
    (study.layout.real / ".train.npz.abc.tmp").write_bytes(b"half")
    (damage,) = run(study, stages(study)).damages
    assert damage.command.startswith("rm data/tiny/real/.train.npz.abc.tmp")


def test_a_wrong_download_is_named(study: Study) -> None:
    study.settings["fetch"]["files"] = {
        "it's $(them)": {
            "url": "https://example.org/a.npz",
            "redirect_hosts": [],
            "size": None,
            "md5": None,
            "sha256": "0" * 64,
            "path": "data/downloads/a.npz",
            "by_hand": "example.org",
        }
    }
    assert run(study, []).damages == []
    path = study.root / "data" / "downloads" / "a.npz"
    path.parent.mkdir()
    path.write_bytes(b"other")
    (damage,) = run(study, []).damages
    words = shlex.split(damage.command)
    assert words == ["rm", "data/downloads/a.npz", "&&", "dguide", "fetch", "--profile", "tiny", "it's $(them)"]
    assert "sha256" in damage.found


def test_nothing_is_changed_by_looking(study: Study) -> None:
    recorded = stages(study)
    flip(study.root / RESULT)
    before = {path: path.read_bytes() for path in study.root.rglob("*") if path.is_file()}
    run(study, recorded)
    assert {path: path.read_bytes() for path in study.root.rglob("*") if path.is_file()} == before


def test_dvc_lock_of_the_project_is_read() -> None:
    found = {stage.name: stage for stage in locked_stages(PROJECT, "mini")}
    assert found["real@mini"].inputs == ()
    assert {Path(file.path).name for file in found["real@mini"].outputs} == {
        "train.npz", "holdout.npz", "card.json", "grid.png",
    }  # fmt: skip
    assert all(len(file.md5) == 32 for stage in found.values() for file in stage.outputs)
    assert "data/mini/real/train.npz" in {file.path for file in found["score@mini"].inputs}
    assert all(stage.name.split("@")[1].split("-")[0] == "mini" for stage in found.values())


@pytest.mark.parametrize("text", ["stages: [", "stages: 3", "{}", "stages: {a: {cmd: x}}", "\x00", "stages: {a: 3}"])
def test_a_damaged_lock_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(InputError, match=r"git checkout -- dvc\.lock") as caught:
        locked_stages(tmp_path, "mini")
    assert "\n" not in str(caught.value)


def test_the_committed_run_of_a_profile_that_never_ran_here_is_read() -> None:
    files = {file.path for stage in locked_stages(PROJECT, "cifar10-small") for file in stage.outputs}
    assert "reports/cifar10-small/evaluation/d0.json" in files


def test_a_run_of_ones_own_comes_before_the_committed_one(tmp_path: Path) -> None:
    for number, path in enumerate(["reports/tiny/dvc.lock", "dvc.lock"]):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        entry = f"{{cmd: dguide real --profile tiny, outs: [{{path: card{number}.json, md5: a, size: 1}}]}}"
        (tmp_path / path).write_text(f"stages:\n  real@tiny: {entry}\n")
        (stage,) = locked_stages(tmp_path, "tiny")
        assert (stage.name, stage.outputs[0].path) == ("real@tiny", f"card{number}.json")


def test_without_a_lock_nothing_is_recorded(tmp_path: Path) -> None:
    assert locked_stages(tmp_path, "mini") == []


def test_the_lock_of_families_is_read_too_and_its_stages_have_their_address(tmp_path: Path) -> None:
    entry = "{cmd: dguide real --profile tiny, outs: [{path: data/tiny/real/card.json, md5: a, size: 1}]}"
    (tmp_path / "families").mkdir()
    (tmp_path / "dvc.lock").write_text(f"stages:\n  real@tiny: {entry}\n")
    path = tmp_path / "families" / "dvc.lock"
    path.write_text(f"stages:\n  real@tiny: {entry}\n  real@other: {entry.replace('tiny', 'other')}\n")
    assert [stage.name for stage in locked_stages(tmp_path, "tiny")] == ["real@tiny", "families/dvc.yaml:real@tiny"]
    path.write_text("stages: 3\n")
    with pytest.raises(InputError, match=r"stages in families/dvc\.lock.*run `dvc repro families/dvc\.yaml` to make"):
        locked_stages(tmp_path, "tiny")
