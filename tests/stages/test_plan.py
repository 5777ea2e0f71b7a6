"""Command `plan`: its counts are those of real stage runs, it names missing files, and it touches nothing."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.planning.blueprints import Blueprints
from discriminator_guidance.planning.commands import commands
from discriminator_guidance.planning.work import network_evaluations
from discriminator_guidance.stages import plan
from tests.planning.profiles import released

from .conftest import Study
from .released import released_study


def files_of(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Pictures that passed each kind of network since the start of the test."""
    seen: Counter[str] = Counter()
    for owner, method in ((EDMPrecond, "forward"), (EncoderUNet, "features"), (FidNetwork, "features")):
        original = getattr(owner, method)

        def counting(self, x, *rest, original=original, owner=owner):
            seen[owner.__name__] += len(x)
            return original(self, x, *rest)

        monkeypatch.setattr(owner, method, counting)
    return seen


@pytest.mark.parametrize(
    "stage",
    [
        "score",
        "extractor",
        "fid_network",
        "fake",
        "discriminator-d0",
        "guided-d0_table1",
        "guided-ensemble_probability",
    ],
)
def test_counts_are_those_of_the_stage(stage, tmp_path, counted):
    study = Study(tmp_path)
    for word in ("score", "extractor", "fid_network"):
        study.settings[word]["training"] |= {"iterations": 3, "batch_size": 8}
    study.settings["fake"]["images"] = 30
    study.settings["discriminator"] |= {"images": 30, "bagging": 0.6}
    for member in study.settings["discriminator"]["members"].values():
        member["epochs"] = 1
    word, _, name = stage.partition("-")
    for needed in study.needs(word, name):
        study.ensure(*needed)
    counted.clear()
    study.run(word, name)
    pictures, _ = plan.study_pictures(study.config, study.context)
    (command,) = [c for c in commands(Blueprints(study.config, pictures)) if c.name == stage]
    assert sum(counted.values()) == network_evaluations(command.passes)


def test_evaluations_compute_features_as_often_as_counted(tmp_path, counted):
    study = Study(tmp_path)
    for word in ("score", "extractor", "fid_network"):
        study.settings[word]["training"] |= {"iterations": 2, "batch_size": 8}
    for needed in (("fid_network", ""), ("guided", "edm"), ("guided", "d0")):
        study.ensure(*needed)
    counted.clear()
    for variant in ("edm", "d0"):
        study.run("evaluation", variant)
    pictures, _ = plan.study_pictures(study.config, study.context)
    expected = [
        c for c in commands(Blueprints(study.config, pictures)) if c.name in ("evaluation-edm", "evaluation-d0")
    ]
    assert counted["FidNetwork"] == sum(network_evaluations(c.passes) for c in expected)


def test_a_plan_of_released_networks_times_and_writes_nothing(tmp_path):
    study = released_study(tmp_path / "study", cond=True)
    # As if nothing were here: the published sizes, which are too large for a test, are given way to small ones.
    (study.root / "head.pt").unlink()
    study.settings |= {key: Study(tmp_path).settings[key] for key in ("score", "extractor")}
    before = files_of(study.root)
    made = plan.run(study.config, study.context, 0.05)
    assert files_of(study.root) == before
    assert made.missing == ["discriminator.members.authors.path: no file at head.pt; put it there by hand"]
    assert [e.command.name for e in made.estimates if e.command.stage == "guided"] == [
        "guided-edm",
        "guided-d0",
        "guided-authors",
    ]
    for each in made.estimates:
        assert math.isfinite(each.seconds)
        assert each.memory > 0
        assert bool(each.evaluations) == bool(each.command.passes)
    timed = {row["pass"] for row in made.timings}
    assert {"score", "score step", "extractor step", "member step", "guidance, 1 members", "fid features"} <= timed


def test_a_released_member_that_dvc_would_leave_out_is_named(tmp_path):
    study = released_study(tmp_path / "study", cond=True)
    study.settings |= {key: Study(tmp_path).settings[key] for key in ("score", "extractor")}

    def named() -> list[bool]:
        return ["the pipeline has: authors" in line for line in plan.unlisted(study.config, study.context.layout)]

    assert named() == []  # no params.yaml: nothing to compare with
    (study.root / "params.yaml").write_text(f"profile: {study.context.layout.profile}\nmembers: [d0]\n")
    assert named() == [True]
    (study.root / "params.yaml").write_text(f"profile: {study.context.layout.profile}\nmembers: [d0, authors]\n")
    assert named() == []


def test_missing_files_of_a_profile_that_has_none(tmp_path):
    study = Study(tmp_path)
    config = released(fetch={"files": {}})
    lines = plan.missing(config, study.context)
    assert [line.split(":")[0] for line in lines] == [
        "real.path",
        "score.path",
        "extractor.path",
        "fid_network.path",
        "discriminator.members.authors.path",
    ]
    path = tmp_path / config.score.path
    path.parent.mkdir(parents=True)
    path.touch()
    assert "score.path" not in [line.split(":")[0] for line in plan.missing(config, study.context)]
    assert plan.missing(study.config, study.context) == []


def test_files_to_be_fetched_are_named_once_with_their_remedy(tmp_path):
    study = Study(tmp_path)
    study.settings["fetch"]["files"]["edm"] = {
        "url": None,
        "redirect_hosts": [],
        "size": None,
        "md5": None,
        "sha256": None,
        "path": "models/edm.pkl",
        "by_hand": "from its page",
    }
    study.settings["score"] = {"source": "edm", "path": "models/edm.pkl"}
    (line,) = plan.missing(study.config, study.context)
    assert line == "edm: put the file at models/edm.pkl by hand (from its page)"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "edm.pkl").touch()  # here, though nobody publishes its checksum
    assert plan.missing(study.config, study.context) == []


def test_pictures_come_from_the_card_or_from_their_source(tmp_path):
    study = Study(tmp_path)
    planned, source = plan.study_pictures(study.config, study.context)
    assert source == "as scikit-learn has them"
    study.ensure("real")
    found, source = plan.study_pictures(study.config, study.context)
    assert source == "as the data card says"
    assert found == planned
    assert plan.study_pictures(released(), Study(tmp_path / "other").context)[0].train == 50_000


def test_files_of_an_image_folder_are_counted(tmp_path):
    study = Study(tmp_path)
    study.settings["real"] |= {"source": "images", "path": "pictures", "holdout_fraction": 0.25}
    pictures, source = plan.study_pictures(study.config, study.context)
    assert source == "assumed until stage real has run"
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    pictures, source = plan.study_pictures(study.config, study.context)
    assert (pictures.train, pictures.holdout) == (3, 1)
    assert source.startswith("as many as there are files")
