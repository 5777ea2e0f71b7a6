"""The factorial on the tiny study: its design, its resumption, its record."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from discriminator_guidance.artifacts.checksums import read_checksums
from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.config import Config
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.significance import standard_error
from discriminator_guidance.report.factorial import factorial_text
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.studies import factorial
from discriminator_guidance.studies.cells import Cell, Laboratory, read_cell, train_members, trained
from tests.conftest import Copied
from tests.stages.conftest import Study, tiny_settings

PLAN = {
    "members": ["d0", "d1"],
    "training_seeds": [1, 2, 3],
    "training_images": 20,
    "images": 12,
}


def factorial_settings() -> dict:
    settings = tiny_settings()
    settings["factorial"] |= PLAN
    settings["factorial"]["levels"] |= {"steps": [2, 3], "epoch_factor": [0.5, 1.0]}
    return settings


@pytest.fixture(scope="module")
def ready(copied: Copied, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of which everything is there but the members of cells, which are trained anew."""
    return copied(tmp_path_factory.mktemp("factorial") / "study", factorial_settings())


def two_seeds(study: Study) -> Config:
    """The study's profile with fewer blocks than a user may ask for."""
    plan = study.config.factorial.model_copy(update={"training_seeds": (1, 2)})
    return study.config.model_copy(update={"factorial": plan})


def run(study: Study, layout: Layout | None = None, workers: int = 1) -> list:
    told: list = []
    factorial.run(two_seeds(study), layout or study.layout, workers, study.context.bar, told.append)
    return told


@pytest.fixture(scope="module")
def first(ready: Study) -> list:
    return run(ready)


def test_ours_and_the_studys_occur_and_every_training_set_is_sampled_twice():
    runs = factorial.design_runs()
    assert {factorial.OURS, factorial.STUDY} < set(runs)
    assert len(set(runs)) == 16
    assert factorial.DESIGN.resolution() == 4
    training = {"init", "epoch_factor", "reshuffle"}
    for word in factorial.DESIGN.words():
        assert not training <= set(word)  # else a factor of sampling would change between training sets only
    sets = Counter(run & training for run in runs)
    assert len(sets) == 8
    assert set(sets.values()) == {2}


def test_every_cell_is_planned_once_in_every_block():
    cells = list(factorial.plan(3))
    assert len(cells) == len(set(cells)) == 3 * (16 + 14 + 4)


def test_levels_reach_training_and_sampling(ready: Study):
    laboratory = Laboratory(ready.config, ready.layout)
    study, ours = Cell(1, factorial.STUDY), Cell(1, factorial.OURS)
    trained = [laboratory.training_config(cell).discriminator for cell in (ours, study)]
    told = [(settings.init, settings.epoch_factor, settings.reshuffle) for settings in trained]
    assert told == [("fresh", 0.5, True), ("sequential", 1.0, False)]
    assert trained[0].members["d1"].seed == ready.config.discriminator.members["d1"].seed + 2000
    sampled = [laboratory.sampling_config(cell) for cell in (ours, study)]
    variants = [config.guided.variants["cell"] for config in sampled]
    assert [(v.rule, v.w2, v.boosting) for v in variants] == [
        ("mean_probability", 2.0, False),
        ("clipped_logit_mean", 0.0, True),
    ]
    assert [config.sampler.steps for config in sampled] == [2, 3]
    assert {config.guided.seed_start for config in sampled} == {3000012}
    single = laboratory.sampling_config(Cell(1, factorial.STUDY, "first")).guided.variants["cell"]
    assert (single.members, single.rule, single.boosting) == (("d0",), "mean_probability", True)


def test_factors_of_sampling_share_members_and_nothing_else_does(ready: Study):
    laboratory = Laboratory(ready.config, ready.layout)
    ours = Cell(0, factorial.OURS)
    for factor in factorial.FACTORS:
        other = Cell(0, frozenset({factor}))
        shared = factor not in ("init", "epoch_factor", "reshuffle")
        assert (laboratory.heads(other) == laboratory.heads(ours)) == shared, factor
        assert laboratory.samples(other) != laboratory.samples(ours), factor
    assert laboratory.heads(Cell(1, factorial.OURS)) != laboratory.heads(ours)
    assert laboratory.samples(Cell(1, factorial.OURS)) != laboratory.samples(ours)


def test_results_are_written_and_agree(ready: Study, first: list):
    folder = ready.layout.report / "factorial"
    assert len(first) == 68
    rows = list(csv.DictReader((folder / "cells.csv").open()))
    assert len(rows) == 68
    assert {row["n"] for row in rows} == {"12"}
    record = json.loads((folder / "factorial.json").read_text())
    files = {path.name: sha256(path) for path in folder.iterdir() if path.suffix != ".sha256"}
    assert read_checksums(folder / "factorial.sha256") == files
    by = {(row["training_seed"], row["cell"]): float(row["fid"]) for row in rows}
    ratios = [math.log(by[s, "study"] / by[s, "ours"]) for s in "12"]
    np.testing.assert_allclose(record["comparisons"]["study / ours"]["log"]["blocks"], ratios)
    without = [by[s, "study"] - by[s, "init + epoch_factor + reshuffle + boosting + steps + w2"] for s in "12"]
    np.testing.assert_allclose(record["undone"]["rule"]["plain"]["blocks"], without)
    design = [row for row in rows if row["members"] == "2"]
    assert len(design) == 60
    assert record["provenance"]["data sha256"].keys() == {"real", "fake"}
    assert (folder / "effects.md").read_text() == factorial_text(record)
    assert (folder / "effects.png").read_bytes()[:4] == b"\x89PNG"
    losses = list(csv.DictReader((folder / "members.csv").open()))
    assert len(losses) == 2 * 8 * 2


def test_a_second_run_computes_nothing_and_writes_the_same(ready: Study, first: list):
    folder = ready.layout.report / "factorial"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(ready) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_lost_cell_alone_is_computed_again_to_the_same_distance(ready: Study, first: list):
    laboratory, cell = Laboratory(two_seeds(ready), ready.layout), Cell(1, frozenset({"rule"}))
    fid, influence = read_cell(laboratory, cell)
    (laboratory.samples(cell) / "cell.json").unlink()
    (told,) = run(ready)
    assert (told["training_seed"], told["cell"], told["fid"]) == (2, "rule", fid)
    np.testing.assert_array_equal(read_cell(laboratory, cell)[1], influence)
    np.testing.assert_allclose(told["sampling_error"], standard_error(influence))


@pytest.mark.parametrize("name", ["cell.json", "influence.npz"])
def test_a_changed_cell_alone_is_computed_again_to_the_same_distance(ready: Study, first: list, name: str):
    laboratory, cell = Laboratory(two_seeds(ready), ready.layout), Cell(0, frozenset({"w2"}))
    fid, influence = read_cell(laboratory, cell)
    path = laboratory.samples(cell) / name
    if name == "cell.json":
        path.write_text(path.read_text().replace('"fid": ', '"fid": 1'))
    else:
        np.savez(path, influence=influence + 1.0)
    with pytest.raises(InputError, match=r"cell\.json as it was written.*run `dguide factorial`"):
        read_cell(laboratory, cell)
    (told,) = run(ready)
    assert (told["training_seed"], told["cell"], told["fid"]) == (1, "w2", fid)
    np.testing.assert_array_equal(read_cell(laboratory, cell)[1], influence)


def test_changed_losses_are_made_again(ready: Study, first: list):
    laboratory, cell = Laboratory(ready.config, ready.layout), Cell(1, factorial.STUDY)
    folder, before = laboratory.heads(cell), train_members(laboratory, cell)
    weights = (folder / "d1" / "model.safetensors").read_bytes()
    (folder / "d1" / "model.safetensors").unlink()
    for path in (folder / "losses.json", folder / "d1" / "losses.json"):
        path.write_text(path.read_text().replace("0.", "0.1"))
    assert not trained(laboratory, cell)
    assert train_members(laboratory, cell) == before
    assert (folder / "d1" / "model.safetensors").read_bytes() == weights


def test_lost_members_are_trained_again_to_the_same_weights(ready: Study, first: list):
    laboratory, cell = Laboratory(ready.config, ready.layout), Cell(0, factorial.STUDY)
    folder = laboratory.heads(cell)
    before = (folder / "d1" / "model.safetensors").read_bytes()
    for path in (folder / "losses.json", folder / "d1" / "losses.json", folder / "d1" / "model.safetensors"):
        path.unlink()
    train_members(laboratory, cell)
    assert (folder / "d1" / "model.safetensors").read_bytes() == before


def test_members_that_share_batches_are_trained_in_one_pass_and_once(tmp_path: Path, ready: Study, monkeypatch):
    from discriminator_guidance.stages import heads

    beside, original = [], heads.train_discriminator

    def spy(*given):
        beside.append(len(given[-1]))
        return original(*given)

    monkeypatch.setattr(heads, "train_discriminator", spy)
    settings = factorial_settings()
    settings["discriminator"]["shared_features"] = True
    laboratory, cell = Laboratory(Study(ready.root, settings).config, ready.layout), Cell(0, factorial.OURS)
    before = set(ready.layout.partial.iterdir())
    losses = train_members(laboratory, cell)
    assert beside == [1, 0]
    assert set(losses) == {"d0", "d1"}
    assert set(ready.layout.partial.iterdir()) == before


def test_a_stage_that_has_not_run_is_named_before_anything_starts(tmp_path: Path, ready: Study):
    with pytest.raises(InputError, match="stage score makes it"):
        run(ready, Layout(tmp_path, "tiny"))


def test_a_changed_setting_changes_the_names_of_what_depends_on_it(ready: Study):
    def places(change: dict) -> tuple[Path, Path]:
        settings = factorial_settings()
        for key, value in change.items():
            section, name = key.split(".")
            settings[section][name] = value
        laboratory = Laboratory(Study(ready.root, settings).config, ready.layout)
        cell = Cell(0, factorial.OURS)
        return laboratory.heads(cell), laboratory.samples(cell)

    heads, samples = places({})
    assert places({"guided.time_min": 0.02}) == (heads, places({"guided.time_min": 0.02})[1])
    assert places({"guided.time_min": 0.02})[1] != samples
    assert places({"discriminator.label_smoothing": 0.1})[0] != heads
    assert places({"discriminator.label_smoothing": 0.1})[1] != samples
    assert places({"factorial.training_seeds": [1, 2, 4]}) == (heads, samples)


def test_an_error_in_a_worker_reaches_the_user(ready: Study, tmp_path: Path):
    import shutil

    shutil.copytree(ready.root / "data", tmp_path / "data")
    shutil.copytree(ready.root / "models", tmp_path / "models", ignore=shutil.ignore_patterns("factorial"))
    (tmp_path / "data" / "tiny" / "fake" / "samples.npz").write_bytes(b"damaged")
    with pytest.raises(Exception, match=r"a whole \.npz file"):
        run(ready, Layout(tmp_path, "tiny"), workers=2)
