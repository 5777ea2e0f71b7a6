"""Class-conditional studies, and the ranges that samples are drawn in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.guided import load_members, member_guidance
from discriminator_guidance.stages.sampling import draw_classes

from .conftest import Study
from .untrained import save_head, save_score, untrained_study

CPU = Compute(torch.device("cpu"), "float32")


@pytest.fixture
def tiny(tmp_path) -> Study:
    """A conditional study with a head for d0, nothing trained."""
    study = untrained_study(tmp_path, cond=True)
    save_head(study, "d0", condition=True)
    return study


def samples(study: Study, variant: str) -> dict[str, np.ndarray]:
    with np.load(study.layout.guided(variant) / "samples.npz") as archive:
        return dict(archive)


def test_variants_share_the_classes_that_are_stored_with_the_samples(tiny):
    for variant in ("edm", "d0"):
        tiny.run("guided", variant)
    edm, d0 = samples(tiny, "edm"), samples(tiny, "d0")
    settings = tiny.config.guided
    expected = draw_classes(settings.seed, range(settings.seed_start, settings.seed_start + 24), 10)
    assert edm["labels"].tolist() == d0["labels"].tolist() == expected.tolist()
    assert not np.array_equal(edm["images"], d0["images"])


def test_fakes_keep_their_classes_whatever_the_batch_and_shard(tiny):
    tiny.run("fake")
    with np.load(tiny.layout.fake / "samples.npz") as archive:
        whole = dict(archive)
    assert whole["labels"].tolist() == draw_classes(tiny.config.fake.seed, range(40), 10).tolist()
    tiny.settings["factorial"]["training_images"] = 10
    tiny.settings["fake"] |= {"images": 11, "seed_start": 20, "batch_size": 5, "shard_size": 7}
    tiny.run("fake")
    with np.load(tiny.layout.fake / "samples.npz") as archive:
        part = dict(archive)
    assert part["labels"].tolist() == whole["labels"][20:31].tolist()
    # Convolutions round differently in other batches.
    assert np.abs(part["images"].astype(int) - whole["images"][20:31].astype(int)).max() <= 1


def test_guidance_asks_the_head_about_each_samples_class(tiny):
    """A head in which each class took the place of the next says of the next what the first said of the class."""
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma, classes = torch.full((5,), 0.8, dtype=torch.float64), torch.tensor([0, 3, 8, 3, 1])
    variant = tiny.config.guided.variants["d0"]

    def guided(labels):
        members = load_members(tiny.layout, ["d0"], CPU)
        return member_guidance(members, labels, variant, 0.01, 1.0, CPU)(x, sigma)

    score, ratio = guided(classes)
    other_score, other_ratio = guided(classes + 1)
    save_head(tiny, "d0", condition=True, shift=1)
    shifted_score, shifted_ratio = guided(classes + 1)
    assert torch.equal(shifted_score, score)
    assert torch.equal(shifted_ratio, ratio)
    assert (other_ratio != ratio).all()
    assert not torch.equal(other_score, score)


@pytest.mark.parametrize(
    ("cond", "score_classes", "head", "word", "words"),
    [
        (True, 0, True, "fake", "a score network with classes, as cond says; got one without classes; run stage score"),
        (False, 10, False, "fake", "a score network without classes, as cond says; got one with classes"),
        (True, 0, True, "guided", "a score network with classes"),
        (False, 10, False, "guided", "a score network without classes"),
        (
            True,
            10,
            False,
            "guided",
            "a discriminator d0 with classes.*got one without classes; run stage discriminator",
        ),
        (False, 0, True, "guided", "a discriminator d0 without classes, as cond says; got one with classes"),
    ],
)
def test_networks_of_the_other_kind_are_refused_before_anything_is_drawn(
    tmp_path, cond, score_classes, head, word, words
):
    study = untrained_study(tmp_path, cond)
    save_score(study, score_classes)
    save_head(study, "d0", condition=head)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=words) as caught:
        study.run(word, "d0" if word == "guided" else "")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_ranges_follow_each_other_and_each_is_what_it_is_alone(tiny):
    tiny.settings["guided"] |= {"images": 8, "ranges": 3, "trajectory_images": 1}
    tiny.settings["evaluation"]["kid_subset_size"] = 8
    tiny.run("guided", "edm")
    whole, start = samples(tiny, "edm"), tiny.config.guided.seed_start
    assert whole["index"].tolist() == list(range(start, start + 24))
    tiny.settings["guided"] |= {"ranges": 1, "seed_start": start + 8}
    tiny.run("guided", "edm")
    second = samples(tiny, "edm")
    assert second["index"].tolist() == whole["index"][8:16].tolist()
    assert second["labels"].tolist() == whole["labels"][8:16].tolist()
    assert np.abs(second["images"].astype(int) - whole["images"][8:16].astype(int)).max() <= 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Study:
    """A conditional study with every network trained, shortly."""
    study = Study(tmp_path_factory.mktemp("trained"))
    study.settings["cond"] = True
    study.settings["sampler"]["steps"] = 4
    for word in ("score", "extractor", "fid_network"):
        study.settings[word]["training"]["iterations"] = 20
    for row in study.settings["discriminator"]["members"].values():
        row["epochs"] = 2
    variants = study.settings["guided"]["variants"]
    study.settings["guided"]["variants"] = {name: variants[name] for name in ("edm", "d0", "ensemble_probability")}
    study.ensure("evaluation", "ensemble_probability")
    return study


def test_a_conditional_study_trains_conditional_networks_on_an_extractor_without_classes(trained):
    layout = trained.layout
    assert read_json(layout.model("score") / "model.json", "score")["label_dim"] == 10
    assert read_json(layout.model("extractor") / "model.json", "extractor")["condition"] is False
    for member in ("d0", "d1"):
        assert read_json(layout.discriminator(member) / "model.json", "discriminator")["condition"] is True


def test_a_conditional_study_goes_all_the_way(trained):
    layout = trained.layout
    with np.load(layout.fake / "samples.npz") as fake:
        assert len(fake["labels"]) == len(fake["images"]) == 40
    edm, ensemble = samples(trained, "edm"), samples(trained, "ensemble_probability")
    assert edm["labels"].tolist() == ensemble["labels"].tolist()
    result = json.loads(layout.evaluation("ensemble_probability").read_text())
    assert result["members"] == ["d0", "d1"]
    assert result["n"] == 24
    assert 0 < result["fid"] < 1e4
    assert 0 <= result["discriminator_auroc"] <= 1


def test_a_conditional_study_of_released_networks_goes_all_the_way(conditional: Study):
    conditional.ensure("guided", "authors")
    conditional.ensure("guided", "edm")
    authors, edm = samples(conditional, "authors"), samples(conditional, "edm")
    assert authors["labels"].tolist() == edm["labels"].tolist()
    assert not np.array_equal(authors["images"], edm["images"])
    logits = np.load(conditional.layout.discriminator("authors") / "test_logits.npz")["logits"]
    assert np.isfinite(logits).all()
