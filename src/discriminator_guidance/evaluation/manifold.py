"""Precision and recall of generated images (Kynkaanniemi et al. 2019), from torch-fidelity."""

from __future__ import annotations

import torch

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import Floats, comparable

BLOCK = 1000  # rows of the distance matrix in memory


def precision_recall(
    generated: Floats, real: Floats, neighborhood: int, block: int = BLOCK, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """The share of each set, (n, d) generated and (m, d) real, that lies on the k-NN manifold of the other.

    Not the classification scores of a discriminator. Memory: both sets in double precision, and about three times
    block x max(n, m) doubles.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    generated, real = comparable(generated, real)
    fewest = min(len(generated), len(real))
    if not 1 <= neighborhood < fewest:
        expected = f"a neighborhood from 1 to {fewest - 1}, for a set of {fewest} images"
        raise InputError(expected, str(neighborhood), "change the neighborhood, or sample more images")
    sets = [torch.from_numpy(features).to(device) for features in (generated, real)]
    options = {"prc_neighborhood": neighborhood, "prc_batch_size": block, "save_cpu_ram": True, "verbose": False}
    shares = prc_features_to_metric(*sets, **options)
    # The library divides in float32; what it counted is exact.
    counts = round(shares["precision"] * len(generated)), round(shares["recall"] * len(real))
    return counts[0] / len(generated), counts[1] / len(real)
