"""Paired comparisons for the report: variants with each other, and ensembles with their members."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dguide.artifacts import Layout
from dguide.report.gather import Difference, Standing
from dguide.settings import Variant
from discriminator_guidance.files import read_json, read_npz
from discriminator_guidance.metrics.significance import Measured

SAMPLED = ("w1", "w2", "boosting", "window", "steps", "s_churn", "network", "autoguidance")  # settings of a variant


def read_evaluated(layout: Layout, variant: str) -> Measured:
    """The Frechet distances of a variant's replicates, and the influence of each sample on them."""
    folder = layout.evaluated(variant)
    details = read_json(folder / "details.json", "evaluation")
    arrays = read_npz(folder / "influence.npz", ["influence", "index"], "evaluation")
    return Measured(tuple(details["fid_values"]), arrays["influence"], tuple(arrays["index"].tolist()))


def differences(evaluated: Mapping[str, Measured]) -> dict[str, dict[str, Difference]]:
    """The difference of every variant from every other, by this other and variant."""
    return {
        other: {name: Difference.of(evaluated[name].minus(evaluated[other])) for name in evaluated if name != other}
        for other in evaluated
    }


def standings(variants: Mapping[str, Variant], evaluated: Mapping[str, Measured]) -> dict[str, Standing]:
    """Every ensemble beside its members, where each of them was sampled alone with the same settings."""
    found = {}
    for name, ensemble in evaluated.items():
        alone = _alone(variants, name, evaluated)
        if len(alone) < 2:
            continue
        singles = {member: evaluated[variant] for member, variant in alone.items()}
        from_each = {member: Difference.of(ensemble.minus(single)) for member, single in singles.items()}
        # The mean of distances has the mean of their influences, because all share their noise index by index.
        values = np.mean([single.values for single in singles.values()], axis=0)
        influence = np.mean([single.influence for single in singles.values()], axis=0)
        mean = Measured(tuple(values.tolist()), influence, ensemble.index)
        found[name] = Standing(alone, mean.mean, Difference.of(ensemble.minus(mean)), from_each)
    return found


def _alone(variants: Mapping[str, Variant], ensemble: str, evaluated: Mapping[str, Measured]) -> dict[str, str]:
    """By member, the variant that samples with it alone as the ensemble samples; empty where one has none."""

    def settings(name: str) -> tuple[object, ...]:
        variant = variants[name]
        how = variant.rule == "clipped_logit_mean", variant.weights == "fitted"
        return how, *(getattr(variant, key) for key in SAMPLED)

    alone = {
        variants[name].members[0]: name
        for name in evaluated
        if len(variants[name].members) == 1 and settings(name) == settings(ensemble)
    }
    members = variants[ensemble].members
    return {member: alone[member] for member in members} if set(members) <= set(alone) else {}
