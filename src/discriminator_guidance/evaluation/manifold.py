"""Precision and recall of generated pictures: how much of each set lies on the other's k-NN manifold."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import comparable_features

BLOCK = 1000  # rows of the distance matrix held at once


def precision_recall(
    generated: NDArray[np.floating],
    real: NDArray[np.floating],
    neighborhood: int,
    batch_size: int = BLOCK,
    real_radii: NDArray[np.float64] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Generative precision and recall; not the classification scores of a discriminator.

    A set's manifold is the union of closed balls around its members, each reaching to its k-th neighbour.
    Precision is the share of generated pictures on the real manifold, recall the share of real ones on the
    generated manifold.

    Args:
        generated: (n, d) features of generated pictures, n above `neighborhood`.
        real: (m, d) features of real pictures, m above `neighborhood`.
        neighborhood: k, at least 1.
        batch_size: rows of the distance matrix held at once: memory is the two sets in double precision, and about
            three times batch_size x max(n, m) doubles.
        real_radii: (m,) `neighbour_radii` of the real features, where they are known; None: computed.
        device: where distances are computed.

    Returns:
        Precision and recall in [0, 1].

    Raises:
        InputError: see `comparable_features`, or a set of at most `neighborhood` pictures.

    Source: Kynkaanniemi et al. 2019, Eqs. 1 and 2.
    """
    generated, real = comparable_features(generated, real)
    _require_neighbours(neighborhood, min(len(generated), len(real)))
    if real_radii is None:
        real_radii = neighbour_radii(real, neighborhood, batch_size, device)
    radii = neighbour_radii(generated, neighborhood, batch_size, device)
    return _shares_within(generated, real, radii, real_radii, batch_size, device)


def neighbour_radii(
    features: NDArray[np.floating], neighborhood: int, batch_size: int = BLOCK, device: torch.device | str = "cpu"
) -> NDArray[np.float64]:
    """The distance of each member of a set to its k-th neighbour in it.

    Args:
        features: (N, d), N above `neighborhood`.
        neighborhood: k, at least 1.
        batch_size: rows of the distance matrix held at once.
        device: where distances are computed.

    Returns:
        (N,) float64, Euclidean.

    Raises:
        InputError: a set of at most `neighborhood` members.
    """
    _require_neighbours(neighborhood, len(features))
    rows = _doubles(features, device)
    # The nearest of all is a member itself.
    radii = [
        torch.cdist(block, rows).kthvalue(neighborhood + 1).values.cpu() for block in torch.split(rows, batch_size)
    ]
    return torch.cat(radii).numpy()


def _require_neighbours(neighborhood: int, members: int) -> None:
    if not 1 <= neighborhood < members:
        raise InputError(
            f"a neighborhood from 1 to {members - 1}, for a set of {members} pictures",
            str(neighborhood),
            "change the neighborhood, or sample more images",
        )


def _shares_within(
    generated: NDArray[np.floating],
    real: NDArray[np.floating],
    radii: NDArray[np.float64],
    real_radii: NDArray[np.float64],
    batch_size: int,
    device: torch.device | str,
) -> tuple[float, float]:
    """Precision and recall from one pass over the distances between the sets."""
    centres, real_reach = _doubles(real, device), _doubles(real_radii, device)
    precise, recalled = 0, torch.zeros(len(real), dtype=torch.bool, device=device)
    points, reaches = _doubles(generated, device), _doubles(radii, device)
    for rows, reach in zip(torch.split(points, batch_size), torch.split(reaches, batch_size), strict=True):
        distances = torch.cdist(rows, centres)
        precise += int((distances <= real_reach).any(dim=1).sum())
        recalled |= (distances <= reach[:, None]).any(dim=0)
    return precise / len(generated), float(recalled.double().mean())


def _doubles(values: NDArray[np.floating], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.float64)
