"""Paired comparisons for the report: variants with baselines, and ensembles with their members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from discriminator_guidance.data.files import read_json, read_npz
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.significance import paired_difference
from discriminator_guidance.report.gather import BASELINES, Difference, Standing

if TYPE_CHECKING:
    from discriminator_guidance.config import Variant
    from discriminator_guidance.stages.layout import Layout


@dataclass(frozen=True)
class Evaluated:
    """A variant's Frechet distance in each range, and the influence of each of its samples on it."""

    distances: list[float]
    influence: np.ndarray  # (n,) or (ranges, n)
    index: np.ndarray  # of the samples, in the same shape


def read_evaluated(layout: Layout, variant: str) -> Evaluated:
    """Read what stage `evaluation` wrote of a variant."""
    path = layout.evaluated(variant) / "details.json"
    distances = read_json(path, "evaluation").get("fid_ranges")
    if not isinstance(distances, list) or not all(isinstance(value, float | int) for value in distances):
        raise InputError(f"a list of numbers fid_ranges in {path}", repr(distances), "run stage evaluation again")
    return Evaluated(distances, **read_npz(layout.influence(variant), ["influence", "index"], "evaluation"))


def differences(evaluated: Mapping[str, Evaluated]) -> dict[str, dict[str, Difference]]:
    """The difference of every variant from each evaluated baseline, by baseline and variant."""
    return {
        baseline: {
            name: _difference(evaluated[name], evaluated[baseline], f"{name} and {baseline}")
            for name in evaluated
            if name != baseline
        }
        for baseline in BASELINES
        if baseline in evaluated
    }


def standings(variants: Mapping[str, Variant], evaluated: Mapping[str, Evaluated]) -> dict[str, Standing]:
    """Every ensemble beside its members, where each of them was sampled alone with the same settings."""
    found = {}
    for name, ensemble in evaluated.items():
        alone = _alone(variants, name, evaluated)
        if len(alone) < 2:
            continue
        singles = {member: evaluated[variant] for member, variant in alone.items()}
        from_each = {
            member: _difference(ensemble, single, f"{name} and {alone[member]}") for member, single in singles.items()
        }
        # The mean of distances has the mean of their influences, because all share their noise index by index.
        distances = np.mean([single.distances for single in singles.values()], axis=0)
        influence = np.mean([single.influence for single in singles.values()], axis=0)
        from_mean = paired_difference(ensemble.distances, ensemble.influence, distances.tolist(), influence)
        found[name] = Standing(alone, float(distances.mean()), Difference(*from_mean), from_each)
    return found


def _alone(variants: Mapping[str, Variant], ensemble: str, evaluated: Mapping[str, Evaluated]) -> dict[str, str]:
    """By member, the variant that samples with it alone as the ensemble samples; empty where one has none."""

    def settings(name: str) -> tuple[object, ...]:
        variant = variants[name]
        return variant.w1, variant.w2, variant.boosting, variant.window, variant.steps

    alone = {
        variants[name].members[0]: name
        for name in evaluated
        if len(variants[name].members) == 1 and settings(name) == settings(ensemble)
    }
    members = variants[ensemble].members
    return {member: alone[member] for member in members} if set(members) <= set(alone) else {}


def _difference(one: Evaluated, other: Evaluated, names: str) -> Difference:
    if not np.array_equal(one.index, other.index):
        what = f"the same sample indices in the influence of {names}"
        raise InputError(what, "different ones", "run stage evaluation of both again")
    return Difference(*paired_difference(one.distances, one.influence, other.distances, other.influence))
