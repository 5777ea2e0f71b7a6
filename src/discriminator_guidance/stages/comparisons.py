"""What the report compares: variants with baselines, and ensembles with their members, paired sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.significance import paired_difference
from discriminator_guidance.report.gather import BASELINES, Difference, Standing
from discriminator_guidance.report.readers import read_json
from discriminator_guidance.stages.layout import Layout

if TYPE_CHECKING:
    from discriminator_guidance.config import Variant


@dataclass(frozen=True)
class Evaluated:
    """A variant's distance in each range, and how much each of its samples pulls on it."""

    distances: list[float]
    influence: np.ndarray  # (n,) or (ranges, n)
    index: np.ndarray  # of the samples, in the same shape


def read_evaluated(layout: Layout, variant: str) -> Evaluated:
    """Read what stage `evaluation` left of a variant.

    Args:
        layout: of the profile.
        variant: its name.

    Returns:
        Distances and influence.

    Raises:
        InputError: a file is missing or damaged.
    """
    distances = read_json(layout.evaluation(variant), "evaluation", {"fid_ranges": "numbers"})["fid_ranges"]
    return Evaluated(distances, **read_npz(layout.influence(variant), ["influence", "index"], "evaluation"))


def differences(evaluated: Mapping[str, Evaluated]) -> dict[str, dict[str, Difference]]:
    """Every variant against each baseline.

    Args:
        evaluated: by variant.

    Returns:
        By baseline, of those that were evaluated, and by variant.

    Raises:
        InputError: two variants were evaluated on other samples.
    """
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
    """Every ensemble against its members alone, where each was sampled alone with the same weights.

    Args:
        variants: the section `guided.variants`.
        evaluated: those that were evaluated.

    Returns:
        By ensemble.

    Raises:
        InputError: an ensemble and a member were evaluated on other samples.
    """
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
    """Of each member the variant that samples with it alone as the ensemble samples; nothing where one has none."""

    def manner(name: str) -> tuple[float, float, bool, tuple[float, float] | None]:
        variant = variants[name]
        return variant.w1, variant.w2, variant.boosting, variant.window

    alone = {
        variants[name].members[0]: name
        for name in evaluated
        if len(variants[name].members) == 1 and manner(name) == manner(ensemble)
    }
    members = variants[ensemble].members
    return {member: alone[member] for member in members} if set(members) <= set(alone) else {}


def _difference(one: Evaluated, other: Evaluated, names: str) -> Difference:
    if not np.array_equal(one.index, other.index):
        raise InputError(
            f"the same sample indices in the influence of {names}",
            "different ones",
            "run stage evaluation of both again",
        )
    return Difference(*paired_difference(one.distances, one.influence, other.distances, other.influence))
