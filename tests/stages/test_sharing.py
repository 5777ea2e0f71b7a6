"""Members that share the batches of one pass over the features: which they are, and that each comes out as alone."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.config import parse_config
from discriminator_guidance.config.sections import Discriminator
from discriminator_guidance.stages import heads
from discriminator_guidance.stages.heads import member_settings
from discriminator_guidance.stages.sharing import companions, draws_seed, shares
from discriminator_guidance.training import discriminator as training

from .conftest import Study, tiny_settings
from .untrained import equal, untrained_study, weights

FILES = ("model.safetensors", "model.json", "test_logits.npz")


def section(shared: bool = True, **rows: dict) -> Discriminator:
    """Members by name, each as d0 but for its seed and what is told; a and b differ in nothing else."""
    settings = tiny_settings()
    row = settings["discriminator"]["members"]["d0"]
    members = {
        name: own if "path" in own else row | {"seed": seed} | own for seed, (name, own) in enumerate(rows.items())
    }
    settings["discriminator"] |= {"shared_features": shared, "members": members}
    settings["factorial"]["members"] = ["a", "b"]
    settings["guided"]["variants"] = {"edm": settings["guided"]["variants"]["edm"]}
    return parse_config(settings, "configs/tiny.yaml").discriminator


def three(root, shared: bool = True) -> Study:
    """Members of one t_min: d0 of three epochs, d1 of two and d2 of five, with other rates, smoothing and networks."""
    study = untrained_study(root)
    row = study.settings["discriminator"]["members"]["d0"]
    wide = study.settings["discriminator"]["network"] | {"model_channels": 16, "dropout": 0.3}
    study.settings["discriminator"] |= {
        "shared_features": shared,
        "members": {
            "d0": row,
            "d1": row | {"seed": 7, "epochs": 2, "learning_rate": 1e-2, "differs": {"label_smoothing": 0.1}},
            "d2": row | {"seed": 8, "epochs": 5, "weight_decay": 0.1, "differs": {"network": wide}},
            "apart": row | {"seed": 9, "t_min": 0.01},
        },
    }
    study.settings["factorial"]["members"] = ["d0", "apart"]
    study.settings["guided"]["variants"] = {"edm": study.settings["guided"]["variants"]["edm"]}
    return study


def made(study: Study, member: str) -> dict[str, str]:
    """Digests of what a member left, its curve included."""
    folder, curves = study.layout.discriminator(member), study.layout.discriminator_reports / member
    return {path.name: sha256(path) for path in [*(folder / name for name in FILES), *sorted(curves.iterdir())]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What each member becomes whose results are made in a folder of their own."""
    found = {}
    for member in ("d0", "d1", "d2", "apart"):
        study = three(tmp_path_factory.mktemp(member))
        rows = study.settings["discriminator"]["members"]
        kept = {name: row for name, row in rows.items() if name in (member, *study.settings["factorial"]["members"])}
        study.settings["discriminator"]["members"] = kept
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("discriminator_guidance.stages.discriminator.waiting", lambda bench, name: [])
            study.run("discriminator", member)
        found[member] = made(study, member)
    return found


@pytest.fixture
def passed(monkeypatch) -> list[int]:
    """Pictures of each batch that was drawn for training, in order."""
    found, original = [], training.draw_noised

    def spy(images, *rest):
        found.append(len(images))
        return original(images, *rest)

    monkeypatch.setattr(training, "draw_noised", spy)
    return found


def test_members_share_that_have_the_times_and_the_order_in_common():
    bagged, after = {"differs": {"bagging": 0.5}}, {"differs": {"init": "sequential", "after": "a"}}
    rows = {
        "a": {},
        "b": {},
        "later": {"t_min": 0.01},
        "longer": {"epochs": 9, "learning_rate": 1.0, "weight_decay": 0.5, "differs": {"label_smoothing": 0.1}},
        "bagged": bagged,
        "after": after,
        "uniform": {"differs": {"importance_sampling": False}},
        "fixed": {"differs": {"reshuffle": False}},
        "fixed_too": {"differs": {"reshuffle": False}},
        "authors": {"path": "head.pt"},
    }
    settings = section(**rows)
    assert companions(settings, "a") == ("b", "longer")
    assert companions(settings, "longer") == ("a", "b")
    assert companions(settings, "fixed") == ("fixed_too",)
    for name in ("later", "bagged", "after", "uniform", "authors"):
        assert companions(settings, name) == (), name
    assert [name for name in rows if not shares(settings, name)] == ["bagged", "after", "authors"]
    off = section(shared=False, **rows)
    assert not any(shares(off, name) or companions(off, name) for name in rows)


def test_batches_belong_to_what_is_shared_and_not_to_who_shares():
    rows = {"a": {}, "b": {}, "later": {"t_min": 0.01}, "bagged": {"differs": {"bagging": 0.5}}}
    settings, fewer = section(**rows), section(a={}, b={})
    assert draws_seed(settings, "a") == draws_seed(settings, "b") == draws_seed(fewer, "a")
    assert len({draws_seed(settings, name) for name in ("a", "later", "bagged")}) == 3
    assert draws_seed(settings, "bagged") == settings.members["bagged"].seed
    off = section(shared=False, **rows)
    assert [draws_seed(off, name) for name in rows] == [off.members[name].seed for name in rows]
    other = settings.model_copy(update={"split": settings.split.model_copy(update={"seed": 77})})
    assert draws_seed(other, "a") != draws_seed(settings, "a")
    told = [member_settings(settings, name) for name in ("a", "b")]
    assert told[0].batches == told[1].batches
    assert told[0].seed != told[1].seed  # of the random start and of dropout


@pytest.mark.parametrize("order", [("d0", "d1", "d2", "apart"), ("d2", "apart", "d1", "d0")])
def test_a_member_comes_out_the_same_with_others_and_without(tmp_path, alone, order):
    study = three(tmp_path)
    for member in order:
        study.run("discriminator", member)
        assert made(study, member) == alone[member], member
    assert not list(study.layout.partial.iterdir())


def test_sharing_asks_the_extractor_once_for_all_and_as_long_as_one_is_left(tmp_path, passed):
    study = three(tmp_path)
    counts = {}
    for member in ("d0", "d1", "d2", "apart"):
        study.run("discriminator", member)
        counts[member] = len(passed)
        passed.clear()
    assert counts == {"d0": 3 * 4, "d1": 0, "d2": 2 * 4, "apart": 3 * 4}


def test_with_a_group_of_one_nothing_but_the_seed_of_the_batches_is_another(tmp_path):
    """Given the shared seed as its own, a member that shares nothing becomes the same bytes."""
    shared, own = three(tmp_path / "shared"), three(tmp_path / "own", shared=False)
    seed = draws_seed(shared.config.discriminator, "apart")
    for study in (shared, own):
        study.settings["discriminator"]["members"]["apart"]["seed"] = seed
        study.run("discriminator", "apart")
    left = [made(study, "apart") for study in (shared, own)]
    told = [left[0].pop("metrics.json"), left[1].pop("metrics.json")]
    assert left[0] == left[1]
    assert told[0] != told[1]  # one of them says what it was made from


def test_the_curve_of_a_member_that_was_trained_beside_another_is_told_when_its_turn_comes(tmp_path):
    study = three(tmp_path)
    study.run("discriminator", "d0")
    assert [step for step, _ in study.metrics] == [1, 2, 3]
    study.metrics.clear()
    study.run("discriminator", "d2")
    assert sorted(step for step, _ in study.metrics) == [1, 2, 3, 4, 5]
    rows = list(csv.DictReader((study.layout.discriminator_reports / "d2" / "history.csv").open()))
    for step, values in study.metrics:
        assert values["train_loss"] == float(rows[step - 1]["train_loss"])


def test_a_changed_row_is_trained_alone_where_the_results_of_the_others_are_there(tmp_path, monkeypatch):
    study, beside, original = three(tmp_path), [], heads.train_discriminator

    def spy(*given):
        beside.append(len(given[-1]))
        return original(*given)

    monkeypatch.setattr(heads, "train_discriminator", spy)
    for member in ("d0", "d1", "d2"):
        study.run("discriminator", member)
    assert beside == [2, 1, 0]
    before = {member: weights(study, member) for member in ("d0", "d1")}
    study.settings["discriminator"]["members"]["d0"]["learning_rate"] *= 2
    study.run("discriminator", "d0")
    assert not equal(weights(study, "d0"), before["d0"])
    study.settings["discriminator"]["split"]["seed"] += 1  # now those of the others are of another split
    study.run("discriminator", "d0")
    study.run("discriminator", "d1")
    assert beside == [2, 1, 0, 0, 2, 1]
    assert not equal(weights(study, "d1"), before["d1"])


def test_a_pass_that_is_killed_goes_on_to_the_same_bytes(tmp_path, monkeypatch, alone):
    study, original, saves = three(tmp_path), PartialWork.save, 0

    def killed(self, state):
        nonlocal saves
        saves += 1
        if saves == 3:
            raise KeyboardInterrupt
        original(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(PartialWork, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            study.run("discriminator", "d0")  # d0 and d1 are kept after their second epoch, d2 is not
    for member in ("d0", "d1", "d2"):
        study.run("discriminator", member)
        assert made(study, member) == alone[member], member


def test_lost_work_of_others_is_done_again_to_the_same_bytes(tmp_path, alone):
    study = three(tmp_path)
    study.run("discriminator", "d0")
    shutil.rmtree(study.layout.partial)
    study.run("discriminator", "d1")
    assert made(study, "d1") == alone["d1"]


def test_what_it_was_made_from_is_recorded_by_those_who_share(tmp_path):
    study = three(tmp_path)
    study.settings["discriminator"]["members"]["d1"]["differs"] = {"bagging": 0.5}
    told = {}
    for member in ("d0", "d1"):
        study.run("discriminator", member)
        told[member] = json.loads((study.layout.discriminator_reports / member / "metrics.json").read_text())
    assert len(told["d0"]["made_from"]) == 64
    assert told["d1"]["made_from"] is None
