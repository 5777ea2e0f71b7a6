"""Precision and recall of generated pictures: how much of each set lies on the other's k-NN manifold."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import comparable_features


def precision_recall(
    generated: NDArray[np.floating], real: NDArray[np.floating], neighborhood: int, batch_size: int = 1000
) -> tuple[float, float]:
    """Generative precision and recall, by torch-fidelity; not the classification scores of a discriminator.

    A set's manifold is the union of closed balls around its members, each reaching to its k-th neighbour.
    Precision is the share of generated pictures on the real manifold, recall the share of real ones on the
    generated manifold.

    Args:
        generated: (n, d) features of generated pictures, n above `neighborhood`.
        real: (m, d) features of real pictures, m above `neighborhood`.
        neighborhood: k, at least 1.
        batch_size: rows of the distance matrix held at once: memory is batch_size x max(n, m) doubles.

    Returns:
        Precision and recall in [0, 1]; each is a mean taken in float32.

    Raises:
        InputError: see `comparable_features`, or a set of at most `neighborhood` pictures.

    Source: Kynkaanniemi et al. 2019, Eqs. 1 and 2.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    generated, real = comparable_features(generated, real)
    smaller = min(len(generated), len(real))
    if not 1 <= neighborhood < smaller:
        raise InputError(
            f"a neighborhood from 1 to {smaller - 1}, for sets of {len(generated)} and {len(real)} pictures",
            str(neighborhood),
            "change the neighborhood, or sample more images",
        )
    # Since torch-fidelity 0.4.0 the first argument is the generated set; save_cpu_ram is what makes batches.
    scores = prc_features_to_metric(
        torch.from_numpy(generated),
        torch.from_numpy(real),
        prc_neighborhood=neighborhood,
        prc_batch_size=batch_size,
        save_cpu_ram=True,
        verbose=False,
    )
    return float(scores["precision"]), float(scores["recall"])
