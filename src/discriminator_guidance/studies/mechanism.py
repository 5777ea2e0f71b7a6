"""What the clipped rule makes of logits at a noise level: whom it guides, how strongly, and by how much information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy.special import expit

from discriminator_guidance.config import Config
from discriminator_guidance.data.files import read_npz
from discriminator_guidance.evaluation.features import Doubles, Floats
from discriminator_guidance.guidance.density_ratio import PROBABILITY_CLIP
from discriminator_guidance.stages.layout import Layout

EDGE = 1.001 * PROBABILITY_CLIP  # closer to 0 or 1 is pinned, up to the rounding of a log ratio
NEWTON_STEPS, RIDGE = 25, 1e-3  # the ridge is that of one image in a thousand; it keeps separable classes finite


def share_and_amplification(mistaken: Doubles) -> dict[str, float | None]:
    """The share of "probabilities" p of the clipped rule that it does not pin, and the mean of their 1 / (p (1 - p)).

    By the second the rule multiplies the gradient of the mean logit; it is None where all are pinned.
    """
    free = mistaken[(mistaken > EDGE) & (mistaken < 1 - EDGE)]
    amplification = float(np.mean(1 / (free * (1 - free)))) if free.size else None
    return {"share_in_unit": free.size / mistaken.size, "amplification": amplification}


def platt_slope(logits: Floats, labels: Floats) -> tuple[float, float]:
    """The slope of a logistic regression of (n,) labels on logits, and its standard error (Platt 1999).

    1 for calibrated logits, 0 for logits without information.
    """
    spread = logits.std()
    design = np.stack([np.ones(len(logits)), (logits - logits.mean()) / spread], axis=1)
    coefficients = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        probability = expit(design @ coefficients)
        information = (design.T * probability * (1 - probability)) @ design + RIDGE * np.eye(2)
        coefficients += np.linalg.solve(information, design.T @ (labels - probability) - RIDGE * coefficients)
    return float(coefficients[1] / spread), float(np.sqrt(np.linalg.inv(information)[1, 1]) / spread)


def mechanism_rows(config: Config, layouts: Sequence[Layout]) -> Iterator[dict[str, Any]]:
    """The mean logit of the first member and of all on test images: a row for each replicate, set and noise level."""
    for (seed, layout), (name, members) in product(enumerate(layouts), config.study.factorial.sets.items()):
        paths = [layout.discriminator(member) / "test_logits.npz" for member in members]
        tested = [read_npz(path, ["logits", "labels", "time"], "discriminator") for path in paths]
        labels, times = tested[0]["labels"], tested[0]["time"]
        for count, time in product((1, len(members)), np.unique(times)):
            logits = np.stack([one["logits"][times == time] for one in tested[:count]]).astype(np.float64).mean(axis=0)
            slope, error = platt_slope(logits, labels[times == time])
            where = {"set": name, "seed": seed, "members": count, "time": float(time), "n": len(logits)}
            moments = {"mean": float(logits.mean()), "standard_deviation": float(logits.std(ddof=1))}
            found = {"platt_slope": slope, "slope_error": error, **share_and_amplification(logits)}
            yield where | moments | found
