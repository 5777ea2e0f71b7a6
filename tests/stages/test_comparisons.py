"""Ensembles against their members, from the influence of each sample."""

from __future__ import annotations

import numpy as np
import pytest

from discriminator_guidance.config import parse_config
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.significance import paired_difference
from discriminator_guidance.stages.comparisons import Evaluated, standings

from .conftest import tiny_settings

NAMES = ("edm", "d0", "d1", "ensemble_probability")


@pytest.fixture
def variants():
    settings = tiny_settings()
    chosen = settings["guided"]["variants"]
    chosen["d1"] = chosen["d0"] | {"members": ["d1"]}
    return parse_config(settings, "configs/tiny.yaml").guided.variants


def evaluated(*names: str, ranges: int = 1) -> dict[str, Evaluated]:
    random = np.random.default_rng(0)
    shape = (8,) if ranges == 1 else (ranges, 8)
    index = np.arange(8 * ranges).reshape(shape)
    return {
        name: Evaluated([4.0 - place + 0.1 * r for r in range(ranges)], random.normal(size=shape), index)
        for place, name in enumerate(names)
    }


@pytest.mark.parametrize("ranges", [1, 3])
def test_an_ensemble_is_compared_with_the_mean_of_its_members_and_with_each(variants, ranges: int):
    given = evaluated(*NAMES, ranges=ranges)
    (found,) = standings(variants, given).values()
    assert found.alone == {"d0": "d0", "d1": "d1"}
    ensemble, d0, d1 = (given[name] for name in ("ensemble_probability", "d0", "d1"))
    assert found.mean_fid == pytest.approx(np.mean(d0.distances + d1.distances))
    assert found.from_mean.value == pytest.approx(np.mean(ensemble.distances) - found.mean_fid)
    per_range = [np.mean(pair) for pair in zip(d0.distances, d1.distances, strict=True)]
    _, bounds = paired_difference(ensemble.distances, ensemble.influence, per_range, (d0.influence + d1.influence) / 2)
    assert found.from_mean.bounds == pytest.approx(bounds)
    for name, single in (("d0", d0), ("d1", d1)):
        value, bounds = paired_difference(ensemble.distances, ensemble.influence, single.distances, single.influence)
        assert found.from_each[name].value == pytest.approx(value)
        assert found.from_each[name].bounds == pytest.approx(bounds)


def test_members_that_were_sampled_otherwise_or_not_at_all_are_no_comparison(variants):
    assert standings(variants, evaluated("edm", "d0", "ensemble_probability")) == {}
    stronger = variants["d1"].model_copy(update={"w1": 3.0})
    assert standings({**variants, "d1": stronger}, evaluated(*NAMES)) == {}


def test_other_samples_are_refused(variants):
    given = evaluated(*NAMES)
    d1 = given["d1"]
    given["d1"] = Evaluated(d1.distances, d1.influence, d1.index + 1)
    with pytest.raises(InputError, match="the same sample indices in the influence of ensemble_probability and d1"):
        standings(variants, given)
