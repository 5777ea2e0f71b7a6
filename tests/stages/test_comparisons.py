"""Differences between variants, and ensembles against their members, from the influence of each sample."""

from __future__ import annotations

import numpy as np
import pytest

from dguide.settings import Variant
from dguide.stages.comparisons import differences, standings
from discriminator_guidance.errors import InputError
from discriminator_guidance.metrics.significance import Measured

from .conftest import Tiny

NAMES = ("edm", "d0", "d1", "mean_prob")


@pytest.fixture
def variants(tiny: Tiny) -> dict[str, Variant]:
    config, _ = tiny
    return {**config.variants, "d1": config.variants["d0"].model_copy(update={"members": ("d1",)})}


def evaluated(*names: str, replicates: int = 1) -> dict[str, Measured]:
    random, shares = np.random.default_rng(0), range(replicates)
    return {
        name: Measured(tuple(4.0 - number + 0.1 * r for r in shares), random.normal(size=(replicates, 8)), (*range(8),))
        for number, name in enumerate(names)
    }


def test_every_variant_is_compared_with_every_other() -> None:
    given = evaluated(*NAMES)
    found = differences(given)
    assert {other: set(row) for other, row in found.items()} == {other: set(NAMES) - {other} for other in NAMES}
    d1, d0 = given["d1"], given["d0"]
    assert (found["d0"]["d1"].value, found["d0"]["d1"].bounds) == (d1.minus(d0).mean, d1.minus(d0).interval())
    assert found["d0"]["d1"].p == d1.minus(d0).p_value()


@pytest.mark.parametrize("replicates", [1, 3])
def test_an_ensemble_is_compared_with_the_mean_of_its_members_and_with_each(
    variants: dict[str, Variant], replicates: int
) -> None:
    given = evaluated(*NAMES, replicates=replicates)
    (found,) = standings(variants, given).values()
    assert found.alone == {"d0": "d0", "d1": "d1"}
    ensemble, d0, d1 = (given[name] for name in ("mean_prob", "d0", "d1"))
    assert found.mean_fid == pytest.approx(np.mean(d0.values + d1.values))
    values = tuple((a + b) / 2 for a, b in zip(d0.values, d1.values, strict=True))
    mean = Measured(values, (d0.influence + d1.influence) / 2, d0.index)
    for difference, single in ((found.from_mean, mean), (found.from_each["d0"], d0), (found.from_each["d1"], d1)):
        assert difference.value == pytest.approx(ensemble.minus(single).mean)
        assert difference.bounds == pytest.approx(ensemble.minus(single).interval())


@pytest.mark.parametrize("change", [{"w1": 3.0}, {"window": (0.1, 1.0)}])
def test_members_that_were_sampled_otherwise_or_not_at_all_are_no_comparison(
    variants: dict[str, Variant], change: dict[str, object]
) -> None:
    assert standings(variants, evaluated("edm", "d0", "mean_prob")) == {}
    other = variants["d1"].model_copy(update=change)
    assert standings({**variants, "d1": other}, evaluated(*NAMES)) == {}


def test_other_samples_are_refused(variants: dict[str, Variant]) -> None:
    given = evaluated(*NAMES)
    d1 = given["d1"]
    given["d1"] = Measured(d1.values, d1.influence, (*range(1, 9),))
    with pytest.raises(InputError, match="the same images of both variants"):
        standings(variants, given)
