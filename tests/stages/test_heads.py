"""How a member's head comes about: start, order, checkpoint, share of the pictures, targets, released heads."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from discriminator_guidance.errors import ConfigError, InputError, UserError
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.stages import heads
from discriminator_guidance.stages.discriminator import open_bench
from discriminator_guidance.stages.heads import grid, member_settings, train_rows

from .conftest import Study, spare_members
from .released import head_file
from .untrained import FEATURES, equal, untrained_study, weights


@pytest.fixture
def tiny(tmp_path) -> Study:
    return untrained_study(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Study:
    """The same with both members trained."""
    study = untrained_study(tmp_path_factory.mktemp("plain"))
    for member in ("d0", "d1"):
        study.run("discriminator", member)
    return study


@pytest.fixture
def trained(monkeypatch) -> list[dict]:
    """The start of every training, and the number of pictures it is given, in order."""
    found, original = [], heads.train_discriminator

    def spy(features, head, *rest):
        found.append({name: tensor.clone() for name, tensor in head.state_dict().items()})
        return original(features, head, *rest)

    monkeypatch.setattr(heads, "train_discriminator", spy)
    return found


def another(tiny: Study, tmp_path, **changes) -> Study:
    """The same study in a folder of its own, with other settings of the discriminators."""
    study = untrained_study(tmp_path / "another", tiny.settings["cond"])
    study.settings["discriminator"] |= changes
    return study


def metrics(study: Study, member: str) -> dict:
    return json.loads((study.layout.discriminator_reports / member / "metrics.json").read_text())


def chain(study: Study, **changes) -> Study:
    """Make it a study of d0, d1 and d2 that go on from each other."""
    rows = study.settings["discriminator"]["members"]
    study.settings["discriminator"]["members"] = {"d0": rows["d0"], "d1": rows["d1"], "d2": rows["d1"] | {"seed": 102}}
    spare_members(study.settings)
    study.settings["discriminator"] |= {"init": "sequential", "checkpoint": 1} | changes
    return study


def refused(study: Study, member: str, error: type[UserError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        study.run("discriminator", member)
    assert "\n" not in str(caught.value)
    assert not study.layout.discriminator(member).exists()
    assert not (study.layout.discriminator_reports / member).exists()


def test_a_sequential_member_starts_from_the_end_of_the_one_before_not_from_what_it_keeps(tiny, tmp_path, trained):
    chain(tiny)
    for member in ("d0", "d1"):
        tiny.run("discriminator", member)
    last = another(tiny, tmp_path, checkpoint="last")
    last.run("discriminator", "d0")
    first_start, second_start, _ = trained
    assert equal(second_start, weights(last, "d0"))
    assert not equal(second_start, weights(tiny, "d0"))  # the weights after its first epoch
    assert not equal(second_start, first_start)


def test_the_last_of_a_chain_alone_is_the_same_and_trains_each_once(tiny, tmp_path, trained):
    chain(tiny)
    for member in ("d0", "d1", "d2"):
        tiny.run("discriminator", member)
    assert len(trained) == 3
    alone = chain(another(tiny, tmp_path))
    alone.run("discriminator", "d2")
    assert len(trained) == 6
    assert [step for step, _ in alone.metrics] == [1, 2, 3]  # the curves of the others are not shown as its own
    for name in ("model.safetensors", "test_logits.npz"):
        paths = [study.layout.discriminator("d2") / name for study in (alone, tiny)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name
    for study in (alone, tiny):
        curve = (study.layout.discriminator_reports / "d2" / "history.csv").read_bytes()
        assert curve.count(b"\n") == 4
    assert not alone.layout.discriminator("d0").exists()
    alone.run("discriminator", "d1")
    assert len(trained) == 7  # d0's end was kept
    assert equal(weights(alone, "d1"), weights(tiny, "d1"))


def test_a_changed_predecessor_is_trained_again_and_recorded(tiny, trained):
    chain(tiny)
    tiny.run("discriminator", "d1")
    before = metrics(tiny, "d1")
    tiny.settings["discriminator"]["members"]["d0"]["learning_rate"] *= 2
    tiny.run("discriminator", "d1")
    assert len(trained) == 4
    assert not equal(trained[1], trained[3])
    assert metrics(tiny, "d1")["predecessors_hash"] != before["predecessors_hash"]
    assert before["predecessors_hash"]
    assert (before["init"], before["goes_on_from"]) == ("sequential", "d0")


def test_a_member_goes_on_from_the_one_it_names_and_not_from_the_one_before_it(tiny, trained):
    spare_members(tiny.settings)
    rows = tiny.settings["discriminator"]["members"]
    rows["d2"] = rows["d1"] | {"seed": 7, "differs": {"init": "sequential", "after": "d0"}}
    tiny.run("discriminator", "d2")
    assert len(trained) == 2  # d0 and d2
    assert metrics(tiny, "d2")["goes_on_from"] == "d0"
    tiny.run("discriminator", "d0")
    assert equal(trained[1], weights(tiny, "d0"))


def test_a_chain_killed_in_a_predecessor_ends_in_the_same_weights(tiny, tmp_path, monkeypatch):
    from discriminator_guidance.artifacts.partial import PartialWork

    chain(tiny)
    tiny.run("discriminator", "d1")
    again = chain(another(tiny, tmp_path))
    original = PartialWork.save

    def killed(self, state):
        original(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialWork, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            again.run("discriminator", "d1")
    again.run("discriminator", "d1")
    assert equal(weights(again, "d1"), weights(tiny, "d1"))


def test_a_fresh_member_owes_nothing_to_the_others(tiny, trained):
    for member in ("d1", "d0", "d1"):
        tiny.run("discriminator", member)
    assert len(trained) == 3
    assert equal(trained[0], trained[2])
    assert not equal(trained[0], trained[1])
    told = metrics(tiny, "d1")
    assert (told["init"], told["goes_on_from"], told["predecessors_hash"]) == ("fresh", None, None)
    assert not list(tiny.layout.partial.iterdir())


@pytest.mark.parametrize("cond", [False, True])
def test_a_pretrained_member_starts_from_the_released_head(tmp_path, trained, cond):
    study = untrained_study(tmp_path, cond)
    released = head_file(tmp_path / "head.pt", FEATURES, cond)
    study.settings["discriminator"] |= {"init": "pretrained", "pretrained": "head.pt"}
    study.run("discriminator", "d0")
    assert equal(trained[0], released.state_dict())
    after = weights(study, "d0")
    assert after.keys() == trained[0].keys()
    assert not equal(after, trained[0])


@pytest.mark.parametrize(
    ("cond", "shape", "condition", "error", "words"),
    [
        (False, None, False, InputError, r"discriminator\.pretrained at head\.pt.*no such file.*dguide fetch"),
        (False, (16, 4, 4), False, InputError, r"a discriminator of 8 x 4 x 4 feature maps in head\.pt.*wrong shape"),
        (False, (8, 8, 8), False, InputError, r"a discriminator of 8 x 4 x 4 feature maps in head\.pt.*wrong shape"),
        (
            True,
            FEATURES,
            False,
            ConfigError,
            r"a discriminator with classes in head\.pt, as cond says; got one without",
        ),
        (False, FEATURES, True, ConfigError, r"a discriminator without classes in head\.pt.*got one with classes"),
    ],
)
@pytest.mark.parametrize("use", ["member", "start"])
def test_a_released_head_that_does_not_fit_is_refused_before_anything_is_computed(
    tmp_path, monkeypatch, use, cond, shape, condition, error, words
):
    study = untrained_study(tmp_path, cond)
    if shape is not None:
        head_file(tmp_path / "head.pt", shape, condition)
    if use == "start":
        study.settings["discriminator"] |= {"init": "pretrained", "pretrained": "head.pt"}
    else:
        study.settings["discriminator"]["members"]["d0"] = {"path": "head.pt"}
        words = words.replace(r"discriminator\.pretrained", r"discriminator\.members\.d0\.path")
    monkeypatch.setattr(heads, "grid_features", lambda *given: pytest.fail("features were computed"))
    refused(study, "d0", error, words)


def test_something_else_than_a_head_is_refused(tiny):
    torch.save({"weights": [1, 2, 3]}, tiny.root / "head.pt")
    tiny.settings["discriminator"]["members"]["d0"] = {"path": "head.pt"}
    refused(tiny, "d0", InputError, r"a state dict in .*head\.pt")


@pytest.mark.parametrize("cond", [False, True])
def test_a_released_member_is_taken_as_it_is_and_tested_like_the_others(tmp_path, cond):
    study = untrained_study(tmp_path, cond)
    released = head_file(tmp_path / "head.pt", FEATURES, cond)
    study.settings["discriminator"]["members"]["d0"] = {"path": "head.pt"}
    study.run("discriminator", "d0")
    assert equal(weights(study, "d0"), released.state_dict())

    bench = open_bench(study.config, study.context)
    test = grid(bench.features, bench.pairs, bench.pairs.split.test, bench.settings, bench.grid_at_once)
    labels = np.concatenate(
        [np.load(p)["labels"] for p in (study.layout.real / "train.npz", study.layout.fake / "samples.npz")]
    )
    with torch.no_grad():
        classes = torch.from_numpy(labels[test.image]) if cond else None
        logits = released(test.features, test.t, classes).squeeze(1)
    saved = np.load(study.layout.discriminator("d0") / "test_logits.npz")
    assert np.allclose(saved["logits"], logits.numpy(), atol=1e-5)
    assert np.array_equal(saved["labels"], saved["image"] < 40)

    curve = study.layout.discriminator_reports / "d0" / "history.csv"
    assert list(csv.DictReader(curve.open())) == []
    told = metrics(study, "d0")
    assert [told[key] for key in ("epochs", "train_loss", "best_epoch", "predecessors_hash")] == [None] * 4
    assert told["test_loss"] > 0
    assert told["parameters"] == sum(parameter.numel() for parameter in released.parameters())


@pytest.mark.parametrize(("checkpoint", "epoch"), [("last", 3), ("best", None), (2, 1)])
def test_the_epoch_whose_weights_are_used_is_recorded_with_its_numbers(tiny, tmp_path, checkpoint, epoch):
    members = tiny.settings["discriminator"]["members"]
    members["d0"]["epochs"] = 6
    tiny.settings["discriminator"] |= {"epoch_factor": 0.5, "learning_rate_factor": 300.0, "checkpoint": checkpoint}
    tiny.run("discriminator", "d0")
    told = metrics(tiny, "d0")
    rows = list(csv.DictReader((tiny.layout.discriminator_reports / "d0" / "history.csv").open()))
    assert len(rows) == told["epochs"] == 3
    if epoch is None:
        losses = [float(row["validation_loss"]) for row in rows]
        epoch = 1 + losses.index(min(losses))
    assert told["used_epoch"] == epoch
    for key in ("train_loss", "validation_loss", "validation_accuracy"):
        assert told[key] == float(rows[epoch - 1][key])
    short = another(tiny, tmp_path, learning_rate_factor=300.0)
    short.settings["discriminator"]["members"]["d0"]["epochs"] = epoch
    short.run("discriminator", "d0")
    assert equal(weights(tiny, "d0"), weights(short, "d0"))


def test_a_bagged_member_is_trained_on_draws_with_replacement_of_the_training_pictures_alone(tiny):
    members = tiny.settings["discriminator"]["members"]
    members["d0"] |= {"differs": {"bagging": 0.75}}
    members["d1"] |= {"differs": {"bagging": 1.0}}
    bench = open_bench(tiny.config, tiny.context)
    split = bench.pairs.split
    d0, d1 = train_rows(bench, "d0"), train_rows(bench, "d1")
    assert (len(split.train), len(d0), len(d1)) == (64, 48, 64)
    for rows in (d0, d1):
        assert set(rows) <= set(split.train)
        assert len(set(rows)) < len(rows)
        assert np.array_equal(np.sort(rows), rows)
    assert len(set(d0) ^ set(d1)) > 10
    assert np.array_equal(train_rows(bench, "d0"), d0)


def test_a_bagged_member_counts_its_own_iterations_and_is_tested_on_all(tiny):
    tiny.settings["discriminator"]["members"]["d0"] |= {"differs": {"bagging": 0.25}}
    for member in ("d0", "d1"):
        tiny.run("discriminator", member)
    d0, d1 = (metrics(tiny, member) for member in ("d0", "d1"))
    assert (d0["iterations"], d1["iterations"]) == (3 * 1, 3 * 4)
    for key in ("n_train", "n_validation", "n_test"):
        assert d0[key] == d1[key]
    tested = [np.load(tiny.layout.discriminator(m) / "test_logits.npz")["image"] for m in ("d0", "d1")]
    assert np.array_equal(*tested)


@pytest.mark.parametrize(
    "differs",
    [
        {"importance_sampling": False},
        {"reshuffle": False},
        {"label_smoothing": 0.2},
        {"bagging": 0.5},
        {"checkpoint": 1},
        {"network": {"model_channels": 16, "num_res_blocks": 1, "num_head_channels": 8, "dropout": 0.0}},
    ],
    ids=lambda differs: next(iter(differs)),
)
def test_a_difference_changes_its_member_as_the_section_would(tiny, tmp_path, plain, differs):
    tiny.settings["discriminator"]["members"]["d0"] |= {"differs": differs}
    section = another(tiny, tmp_path, **differs)
    for study in (tiny, section):
        study.run("discriminator", "d0")
    assert equal(weights(tiny, "d0"), weights(section, "d0"))
    assert not equal(weights(tiny, "d0"), weights(plain, "d0"))


def test_a_difference_leaves_the_other_members_as_they_are(tiny, plain):
    tiny.settings["discriminator"]["members"]["d0"] |= {"differs": {"reshuffle": False, "bagging": 0.5}}
    tiny.run("discriminator", "d1")
    assert equal(weights(tiny, "d1"), weights(plain, "d1"))


def test_the_two_factors_leave_a_chosen_epoch_within_the_training(tiny):
    tiny.settings["discriminator"]["members"]["d0"] |= {"epochs": 60, "differs": {"checkpoint": 55}}
    tiny.settings["discriminator"]["epoch_factor"] = 0.01
    told = member_settings(tiny.config.discriminator, "d0")
    assert (told.epochs, told.checkpoint) == (1, 1)


def test_a_conditional_member_learns_with_the_classes_of_real_and_fake(tmp_path, trained):
    """Heads of a conditional study are conditional, and other classes of the fakes train another head."""
    study = untrained_study(tmp_path / "one", cond=True)
    study.run("discriminator", "d0")
    assert "label_emb.weight" in trained[0]
    bench = open_bench(study.config, study.context)
    files = [np.load(study.layout.real / "train.npz"), np.load(study.layout.fake / "samples.npz")]
    assert bench.pairs.classes.tolist() == [*files[0]["labels"], *files[1]["labels"]]
    other = untrained_study(tmp_path / "other", cond=True)
    path = other.layout.fake / "samples.npz"
    np.savez(path, images=files[1]["images"], labels=(files[1]["labels"] + 1) % 10)
    other.run("discriminator", "d0")
    assert equal(trained[0], trained[1])
    assert not equal(weights(study, "d0"), weights(other, "d0"))


def test_fakes_without_classes_are_refused_in_a_conditional_study(tmp_path):
    study = untrained_study(tmp_path, cond=True)
    path = study.layout.fake / "samples.npz"
    np.savez(path, images=np.load(path)["images"])
    refused(study, "d0", InputError, r"array labels in .*samples\.npz; got no such array; run stage fake again")


def test_exhausted_memory_halves_the_passes_of_a_member_and_is_recorded(tiny, plain, monkeypatch):
    from discriminator_guidance.training import discriminator

    original = discriminator.accumulate_gradients

    def exhausted(loss_of, batch, size, weight):
        if size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(loss_of, batch, size, weight)

    frozen = EncoderUNet.features

    def crowded(network, x_vp, t, *labels):
        if len(x_vp) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return frozen(network, x_vp, t, *labels)

    monkeypatch.setattr(discriminator, "accumulate_gradients", exhausted)
    monkeypatch.setattr(EncoderUNet, "features", crowded)
    assert tiny.run("discriminator", "d0").summary["batch_size"] == 4
    grid_sizes = [256, 128, 64, 32, 16, 8]
    assert [int(line.split()[-4]) for line in tiny.notices] == [*grid_sizes, 8, 4]
    assert metrics(tiny, "d0")["halved_grid_batches"] == grid_sizes
    assert metrics(tiny, "d0")["halved_batches"] == [8, 4]
    assert not {"halved_batches", "halved_grid_batches", "fake_halved_batches"} & set(metrics(plain, "d0"))
    for key in ("train_loss", "validation_loss", "test_loss"):
        assert metrics(tiny, "d0")[key] == pytest.approx(metrics(plain, "d0")[key], rel=1e-3)
