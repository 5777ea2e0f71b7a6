"""What studies chose: the tuned file, its place in the profile, the lists of rows."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from discriminator_guidance.config import load_config, load_tuned, promote, promotion, rows_file
from discriminator_guidance.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[1]
ROWS = rows_file("mini")
PROVENANCE = {
    "study": "ensemble",
    "trial": 41,
    "seed": 7,
    "parameters": {"w1": 1.5, "rule": "mean_logit", "boosting": False, "epochs": 3, "bagging": None},
    "values": {"fid": 1.03},
    "commit": "1234567",
}
ENSEMBLE = {
    "members": ["d0", "d3"],
    "rule": "mean_logit",
    "weights": [0.75, 0.25],
    "w1": 1.5,
    "w2": 2.0,
    "boosting": False,
    "window": [1e-5, 0.9],
    "tuning": {"study": "ensemble", "trial": 41, "fid": 1.03, "images": 400},
}
MEMBER = {
    "seed": 200,
    "epochs": 30,
    "learning_rate": 1.25e-5,
    "weight_decay": 0.0,
    "t_min": 1e-4,
    "differs": {"bagging": 0.8},
}
ALONE = {
    "members": ["tuned"],
    "rule": "mean_probability",
    "weights": "equal",
    "w1": 2.0,
    "w2": 2.0,
    "boosting": False,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "configs").mkdir()
    shutil.copy(PROJECT / "configs" / "mini.yaml", tmp_path / "configs")
    rows = (PROJECT / ROWS).read_text().split("tuned_members")[0]
    for name in (ROWS, "params.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{rows}tuned_members: []     # of a study\ntuned_ensembles: []\n")
    return tmp_path


def promote_ensemble(project: Path, **changes: object) -> Path:
    return promote(project, "mini", "ensemble", {"variant": ENSEMBLE | changes}, PROVENANCE)


def promote_member(project: Path, **changes: object) -> Path:
    chosen = {"member": MEMBER | changes, "variant": ALONE}
    return promote(project, "mini", "discriminator", chosen, PROVENANCE | {"study": "discriminator"})


def test_what_is_promoted_comes_back_as_member_and_variants(project: Path):
    before = load_config("mini", project)
    promote_ensemble(project), promote_member(project)
    config = load_config("mini", project)
    assert config.discriminator.members["tuned"].learning_rate == 1.25e-5
    assert config.discriminator.members["tuned"].differs.bagging == 0.8
    assert config.guided.variants["tuned"].members == ("tuned",)
    chosen = config.guided.variants["ensemble_tuned"]
    assert (chosen.weights, chosen.window, chosen.tuning.fid) == ((0.75, 0.25), (1e-5, 0.9), 1.03)
    assert [name for name in config.guided.variants if name not in before.guided.variants] == [
        "ensemble_tuned",
        "tuned",
    ]
    rest = config.model_dump(exclude={"discriminator": {"members": {"tuned"}}, "guided": {"variants"}})
    assert rest == before.model_dump(exclude={"guided": {"variants"}})


def test_provenance_is_kept_as_it_was_given(project: Path):
    promote_ensemble(project)
    found = load_tuned("mini", project).provenance["ensemble"].model_dump()
    assert found == PROVENANCE
    assert type(found["parameters"]["boosting"]) is bool
    assert type(found["parameters"]["epochs"]) is int


def test_twice_is_as_once_and_one_part_leaves_the_other(project: Path):
    promote_member(project), promote_ensemble(project)
    files = [project / "params.yaml", project / ROWS, project / "configs" / "mini.tuned.yaml"]
    before = [path.read_bytes() for path in files]
    promote_member(project), promote_ensemble(project)
    assert [path.read_bytes() for path in files] == before
    promote_ensemble(project, w1=1.0)
    tuned = load_tuned("mini", project)
    assert tuned.guided.variants["ensemble_tuned"].w1 == 1.0
    assert tuned.discriminator.members["tuned"].seed == 200
    assert set(tuned.provenance) == {"discriminator", "ensemble"}


def test_two_promotions_at_once_are_both_kept(project: Path, monkeypatch: pytest.MonkeyPatch):
    reached, done, written = threading.Event(), threading.Event(), promotion.write_bytes

    def write(path: Path, content: bytes) -> None:  # the first has read everything by now; it waits for the second
        if not reached.is_set():
            reached.set()
            done.wait(1.0)
        written(path, content)

    monkeypatch.setattr(promotion, "write_bytes", write)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(promote_ensemble, project)
        assert reached.wait(30)
        second = pool.submit(promote_member, project)
        second.add_done_callback(lambda future: done.set())
        first.result(), second.result()
    tuned = load_tuned("mini", project)
    assert set(tuned.provenance) == {"discriminator", "ensemble"}
    assert set(tuned.guided.variants) == {"tuned", "ensemble_tuned"}
    for name in (ROWS, "params.yaml"):
        rows = YAML(typ="safe", pure=True).load((project / name).read_text())
        assert (rows["tuned_members"], rows["tuned_ensembles"]) == (["tuned"], ["ensemble_tuned"])


@pytest.mark.parametrize("name", [ROWS, "params.yaml"])
def test_names_are_listed_and_comments_stay(project: Path, name: str):
    text = (project / name).read_text()
    promote_ensemble(project), promote_member(project)
    now = (project / name).read_text()
    before, after = ([" ".join(line.split()) for line in lines.splitlines()] for lines in (text, now))
    added = ["tuned_members: # of a study", "- tuned", "tuned_ensembles:", "- ensemble_tuned"]
    assert before[-2:] == ["tuned_members: [] # of a study", "tuned_ensembles: []"]
    assert after == before[:-2] + added


def test_params_of_another_profile_are_left_alone(project: Path):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("profile: mini", "profile: cifar10"))
    before = params.read_bytes()
    promote_member(project)
    assert params.read_bytes() == before
    assert YAML(typ="safe", pure=True).load((project / ROWS).read_text())["tuned_members"] == ["tuned"]


def test_a_profile_without_lists_is_told_where_they_belong(project: Path):
    (project / ROWS).unlink()
    promote_member(project)  # its lists are those of params.yaml
    (project / "params.yaml").unlink()
    with pytest.raises(ConfigError, match=r"rows of profile mini in configs/rows/profile/mini\.yaml; got no such file"):
        promote_ensemble(project)
    assert "ensemble" not in load_tuned("mini", project).provenance


def test_the_tuned_file_is_no_profile(project: Path):
    promote_ensemble(project)
    with pytest.raises(ConfigError, match=r"no such file; choose one of: mini$"):
        load_config("mini.tuned", project)


BAD = [
    ({"members": ["d0", "d9"]}, "ensemble_tuned.members names 'd9'"),
    ({"weights": [0.5, 0.4]}, "sum to 1"),
    ({"window": [0.9, 0.1]}, "its first time below its second"),
    ({"members": [], "weights": "equal", "w1": 0.0, "w2": 0.0}, "window needs at least one member"),
    ({"w3": 1.0}, "w3 = 1.0"),
]


@pytest.mark.parametrize(("changes", "told"), BAD)
def test_a_winner_that_does_not_fit_is_refused_and_nothing_is_written(project: Path, changes: dict, told: str):
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        promote_ensemble(project, **changes)
    assert told in str(caught.value)
    assert "mini.tuned.yaml" in str(caught.value)
    assert not (project / "configs" / "mini.tuned.yaml").exists()
    assert (project / "params.yaml").read_bytes() == before


def test_without_the_list_nothing_is_written(project: Path):
    (project / "params.yaml").write_text("profile: mini\n")
    with pytest.raises(ConfigError, match=r"a list tuned_ensembles in params\.yaml.*add `tuned_ensembles: \[\]`"):
        promote_ensemble(project)
    assert not (project / "configs" / "mini.tuned.yaml").exists()


def test_a_damaged_tuned_file_is_named(project: Path):
    promote_ensemble(project)
    path = project / "configs" / "mini.tuned.yaml"
    path.write_text(path.read_text().replace("w1: 1.5", "w1: strong"))
    with pytest.raises(ConfigError, match=r"guided\.variants\.ensemble_tuned\.w1 in configs/mini\.tuned\.yaml"):
        load_config("mini", project)


def test_a_profile_that_has_the_name_itself_is_refused(project: Path):
    promote_ensemble(project)
    path = project / "configs" / "mini.yaml"
    path.write_text(path.read_text().replace("    ensemble_logit: {", "    ensemble_tuned: {"))
    with pytest.raises(ConfigError, match=r"no guided\.variants\.ensemble_tuned in configs/mini\.yaml"):
        load_config("mini", project)
