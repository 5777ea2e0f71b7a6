"""Stage `discriminator`: a member's start, its training, the weights that are used, its test."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dguide.stages import discriminator
from dguide.stages.discriminator import member_settings
from discriminator_guidance.core.errors import InputError

from .conftest import Tiny, prepare_study, run_stage, tiny_settings, write_params
from .released import head_file

HEAD = "data/raw/head.pt"
FEATURES = (8, 4, 4)  # of the tiny extractor
D0 = "models/mini/discriminator/d0"


def changed(tiny: Tiny, changes: dict[str, Any]) -> Tiny:
    return write_params(tiny[1].root, tiny_settings({"cond": tiny[0].cond, **changes}))


def metrics(tiny: Tiny, member: str) -> dict[str, Any]:
    return json.loads((tiny[1].discriminator_report(member) / "metrics.json").read_text())


def curve(tiny: Tiny, member: str) -> list[dict[str, str]]:
    return list(csv.DictReader((tiny[1].discriminator_report(member) / "history.csv").open()))


def weights(tiny: Tiny, member: str, folder: str = "") -> dict[str, Tensor]:
    return load_file(tiny[1].discriminator(member) / folder / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights that every training begins with."""
    begun, original = [], discriminator.train_discriminator

    def spy(*images, start, **options):
        begun.append({name: tensor.clone() for name, tensor in start.state_dict().items()})
        return original(*images, start=start, **options)

    monkeypatch.setattr(discriminator, "train_discriminator", spy)
    return begun


def test_curve_metrics_calibration_and_logits_agree(tiny: Tiny):
    _, tracker = run_stage("discriminator", tiny, "d0")
    rows, record = curve(tiny, "d0"), metrics(tiny, "d0")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [step for step, _ in tracker.curve] == [4, 8, 12]
    assert record["validation_loss"] == float(rows[-1]["validation_loss"])
    assert record["best_validation_loss"] == min(float(row["validation_loss"]) for row in rows)
    assert (record["epochs"], record["used_epoch"], record["iterations"], record["n_train"]) == (3, 3, 12, 64)
    assert tracker.settings["learning_rate"] == pytest.approx(3 * tiny[0].members["d0"].learning_rate)
    logits = np.load(tiny[1].discriminator("d0") / "test_logits.npz")
    bins = list(csv.DictReader((tiny[1].discriminator_report("d0") / "calibration.csv").open()))
    assert sum(int(row["count"]) for row in bins) == len(logits["logits"])
    losses = np.logaddexp(0, logits["logits"].astype(float)) - logits["labels"] * logits["logits"]
    assert record["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert np.array_equal(logits["labels"], logits["image"] < 40)
    assert not (tiny[1].discriminator("d0") / "last").exists()
    run_stage("discriminator", tiny, "d1")  # on the same pairs
    other = np.load(tiny[1].discriminator("d1") / "test_logits.npz")
    assert [np.array_equal(logits[name], other[name]) for name in logits] == [name != "logits" for name in logits]


def test_factors_scale_table_2_and_leave_a_chosen_epoch_within_the_training(tiny: Tiny):
    cases = ((4, 0.3, "last", (1, "last")), (60, 0.2, 55, (12, 11)), (None, 0.2, 10, (None, 10)))  # None: rows of steps
    for epochs, factor, checkpoint, expected in cases:
        row = {"members.d0.epochs": epochs, "members.d0.checkpoint": checkpoint}
        config, _ = changed(tiny, {"discriminator.epoch_factor": factor, **row})
        settings = member_settings(config.discriminator, config.members["d0"])
        assert (settings.epochs, settings.checkpoint) == expected
        assert settings.learning_rate == pytest.approx(3 * 3e-4)


def test_a_whole_network_of_the_images_is_trained_in_steps_and_guides(tiny: Tiny):
    whole = {"kind": "whole", "epochs": None, "steps": 40, "row_steps": 10, "patience": 3, "optimizer": "adamw"}
    settings = {f"members.d0.{key}": value for key, value in whole.items()}
    tiny = changed(tiny, settings)
    run_stage("discriminator", tiny, "d0")
    record, rows = metrics(tiny, "d0"), curve(tiny, "d0")
    assert record["iterations"] == 10 * len(rows) <= 40
    assert float(rows[-1]["epoch"]) == pytest.approx(record["iterations"] * 16 / record["n_train"])
    convolution = weights(tiny, "d0")["convolutions.1.weight"]
    run_stage("guided", tiny, "d0")
    run_stage("discriminator", changed(tiny, settings | {"members.d0.gain": 1.68}), "d0")
    assert weights(tiny, "d0")["convolutions.1.weight"].std() > 2 * convolution.std()


def test_the_epoch_whose_weights_are_used_is_recorded_with_its_numbers(tiny: Tiny):
    factors = {"discriminator.epoch_factor": 0.5, "discriminator.learning_rate_factor": 300.0}
    tiny = changed(tiny, factors | {"members.d0.epochs": 6, "members.d0.checkpoint": 2})
    run_stage("discriminator", tiny, "d0")
    record, rows, used = metrics(tiny, "d0"), curve(tiny, "d0"), weights(tiny, "d0")
    assert (len(rows), record["used_epoch"]) == (3, 1)
    assert all(record[key] == float(rows[0][key]) for key in ("train_loss", "validation_accuracy"))
    assert (tiny[1].discriminator("d0") / "last").exists()
    short = {"discriminator.learning_rate_factor": 300.0, "members.d0.epochs": 1}
    run_stage("discriminator", changed(tiny, short), "d0")
    assert equal(weights(tiny, "d0"), used)
    assert not (tiny[1].discriminator("d0") / "last").exists(), "weights of an earlier run"


def test_a_sequential_member_continues_the_last_epoch_and_not_the_used_one(tiny: Tiny, starts: list):
    tiny = changed(tiny, {"members.d0.checkpoint": 1, "members.d1.start": D0})
    for member in ("d0", "d1"):
        run_stage("discriminator", tiny, member)
    assert equal(starts[1], weights(tiny, "d0", "last"))
    assert not equal(starts[1], weights(tiny, "d0"))
    for member in ("d0", "d1"):
        run_stage("discriminator", changed(tiny, {"members.d1.start": D0}), member)
    assert equal(starts[3], weights(tiny, "d0"))


@pytest.mark.parametrize("cond", [False, True])
def test_a_released_head_is_taken_as_it_is_or_trained_further(tmp_path: Path, starts: list, cond: bool):
    tiny = prepare_study(tmp_path, tiny_settings({"cond": cond}))
    released = head_file(tmp_path / HEAD, FEATURES, cond)
    tiny = changed(tiny, {"members.d0.start": HEAD, "members.d0.epochs": 0})
    run_stage("discriminator", tiny, "d0")
    assert equal(weights(tiny, "d0"), released.state_dict())
    assert curve(tiny, "d0") == []
    record = metrics(tiny, "d0")
    assert [record[key] for key in ("epochs", "used_epoch", "train_loss", "best_epoch")] == [0, 0, None, None]
    assert record["validation_loss"] > 0
    run_stage("discriminator", changed(tiny, {"members.d0.start": HEAD}), "d0")
    assert equal(starts[-1], released.state_dict())
    assert not equal(weights(tiny, "d0"), released.state_dict())


@pytest.mark.parametrize(
    ("cond", "shape", "condition", "words"),
    [
        (False, None, False, r"the member's start at data/raw/head\.pt.*does not exist; .*dguide fetch"),
        (False, (16, 4, 4), False, "the network in .* has in_channels 16 instead of 8"),
        (True, FEATURES, False, "the network in .* has condition False instead of True"),
    ],
)
def test_a_released_head_that_does_not_fit_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cond: bool, shape: Any, condition: bool, words: str
):
    tiny = changed(prepare_study(tmp_path, tiny_settings({"cond": cond})), {"members.d0.start": HEAD})
    if shape is not None:
        head_file(tmp_path / HEAD, shape, condition)
    monkeypatch.setattr(discriminator, "train_discriminator", lambda *images, **options: pytest.fail("training began"))
    before = weights(tiny, "d0")
    with pytest.raises(InputError, match=words):
        run_stage("discriminator", tiny, "d0")
    assert equal(weights(tiny, "d0"), before)


def test_a_conditional_member_learns_with_the_classes_of_real_and_fake(tmp_path: Path):
    tiny = prepare_study(tmp_path, tiny_settings({"cond": True}))
    run_stage("discriminator", tiny, "d0")
    first, path = weights(tiny, "d0"), tiny[1].fake() / "samples.npz"
    assert "label_emb.weight" in first
    images, labels = (np.load(path)[name] for name in ("images", "labels"))
    np.savez(path, images=images, labels=(labels + 1) % 10)
    run_stage("discriminator", tiny, "d0")
    assert not equal(weights(tiny, "d0"), first)
    np.savez(path, images=images)
    with pytest.raises(InputError, match=r"samples\.npz .*labels.*; run stage fake again"):
        run_stage("discriminator", tiny, "d0")
