"""Precision and recall of generated images (Kynkaanniemi et al. 2019): from torch-fidelity, and for intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import Doubles, Floats, comparable

BLOCK = 1000  # rows of the distance matrix in memory


def precision_recall(
    generated: Floats, real: Floats, neighborhood: int, block: int = BLOCK, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """The share of each set, (n, d) generated and (m, d) real, that lies on the k-NN manifold of the other.

    Not the classification scores of a discriminator. Memory: both sets in double precision, and about three times
    block x max(n, m) doubles.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    sets = _checked(generated, real, neighborhood, 1, device)
    options = {"prc_neighborhood": neighborhood, "prc_batch_size": block, "save_cpu_ram": True, "verbose": False}
    shares = prc_features_to_metric(*sets, **options)
    # The library divides in float32; what it counted is exact.
    counts = round(shares["precision"] * len(generated)), round(shares["recall"] * len(real))
    return counts[0] / len(generated), counts[1] / len(real)


def precision_recall_influence(
    generated: Floats, real: Floats, neighborhood: int, block: int = BLOCK, device: torch.device | str = "cpu"
) -> list[tuple[float, Doubles]]:
    """The same two shares, each with the influence (n,) of every generated image on it; the real images are fixed.

    Precision is a mean over generated images. Recall's influence is the jackknife's, psi_i = (n - 1) (mean_j R_(-j) -
    R_(-i)), where R_(-i) leaves image i out: real images in no other ball are lost, and balls that have i among their k
    nearest neighbours grow to the next one. Its variance is at least the true one on average (Efron & Stein 1981):
    recall's intervals came out twice as wide as they need be on Gaussian features.
    """
    x, y = _checked(generated, real, neighborhood, 2, device)
    n, k = len(x), neighborhood
    inside, nearest = _nearest(y, k + 1, block)[0][:, k], _nearest(x, k + 2, block)
    precise = torch.cat([(torch.cdist(rows, y) <= inside).any(dim=1) for rows in torch.split(x, block)]).double()

    radius, wider_radius = nearest[0][:, k], nearest[0][:, k + 1]
    ball, neighbour = torch.arange(n, device=x.device).repeat_interleave(k + 1), nearest[1][:, : k + 1].flatten()
    places = torch.stack([neighbour, ball])[:, neighbour != ball]
    neighbours = torch.sparse_coo_tensor(places, torch.ones_like(places[0]).float(), (n, n), check_invariants=True)
    recalled, gained = 0, x.new_zeros(n)  # real images in a ball; how many more are when an image is left out
    for rows in torch.split(y, block):
        distance = torch.cdist(rows, x)
        covered = distance <= radius
        balls = covered.sum(dim=1)
        recalled += int((balls > 0).sum())
        replaced = (
            neighbours @ (distance <= wider_radius).float().T
        ).T > 0  # (rows, n): in a wider ball, without image i
        gained += replaced[balls == 0].sum(dim=0) - (covered & ~replaced)[balls == 1].sum(dim=0)
    recall = (n - 1) / len(y) * (gained.mean() - gained)
    values = (float(precise.mean()), precise - precise.mean()), (recalled / len(y), recall)
    return [(value, influence.cpu().numpy()) for value, influence in values]


def _nearest(points: Tensor, count: int, block: int) -> tuple[Tensor, Tensor]:
    """Distances and rows (n, count) of the points nearest to each of (n, d), itself included."""
    found = [torch.cdist(rows, points).topk(count, largest=False) for rows in torch.split(points, block)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def _checked(generated: Floats, real: Floats, neighborhood: int, more: int, device: torch.device | str) -> list[Tensor]:
    sets = comparable(generated, real)
    most = min(map(len, sets)) - more
    if not 1 <= neighborhood <= most:
        expected = f"a neighborhood from 1 to {most}, for a set of {most + more} images"
        raise InputError(expected, str(neighborhood), "change the neighborhood, or sample more images")
    return [torch.from_numpy(features).to(device) for features in sets]
