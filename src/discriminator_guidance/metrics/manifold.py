"""Precision and recall of generated images (Kynkaanniemi et al. 2019), with the influence of every image."""

from __future__ import annotations

import torch
from torch import Tensor

from discriminator_guidance.metrics.features import Floats, comparable
from discriminator_guidance.metrics.significance import Estimate


def precision_recall(
    generated: Floats, real: Floats, neighborhood: int, block: int = 1000, device: torch.device | str = "cpu"
) -> tuple[Estimate, Estimate]:
    """The share of each set, (n, d) generated and (m, d) real, that lies on the k-NN manifold of the other.

    Not the classification scores of a discriminator. Each estimate has one replicate; the real images are fixed. The
    influence on recall is the jackknife's, psi_i = (n - 1) (mean_j R_(-j) - R_(-i)), where R_(-i) leaves image i out:
    real images in no other ball are lost, and balls that have i among their k nearest neighbours grow to the next one.
    Its variance is at least the true one on average (Efron & Stein 1981): intervals came out twice as wide as they need
    be on Gaussian features. Memory: about four times block x max(n, m) doubles.
    """
    (x, y), k = (torch.from_numpy(features).to(device) for features in comparable(generated, real)), neighborhood
    real_radius, (distances, nearest) = _nearest(y, k + 1, block)[0][:, k], _nearest(x, k + 2, block)
    precise = torch.cat([(torch.cdist(rows, y) <= real_radius).any(dim=1) for rows in torch.split(x, block)]).double()

    n, ball = len(x), torch.arange(len(x), device=x.device).repeat_interleave(k + 1)
    neighbour = nearest[:, : k + 1].flatten()
    indices = torch.stack([neighbour, ball])[:, neighbour != ball]
    neighbours = torch.sparse_coo_tensor(indices, torch.ones_like(indices[0]).float(), (n, n), check_invariants=True)
    recalled, gained = 0, x.new_zeros(n)  # real images in a ball; how many more are when an image is left out
    for rows in torch.split(y, block):
        distance = torch.cdist(rows, x)
        covered = distance <= distances[:, k]
        balls = covered.sum(dim=1)
        recalled += int((balls > 0).sum())
        replaced = (neighbours @ (distance <= distances[:, k + 1]).float().T).T > 0  # without i, in a wider ball
        gained += replaced[balls == 0].sum(dim=0) - (covered & ~replaced)[balls == 1].sum(dim=0)
    lost = (n - 1) / len(y) * (gained.mean() - gained)
    shares = (float(precise.mean()), precise - precise.mean()), (recalled / len(y), lost)
    precision, recall = (Estimate((share,), influence.cpu().numpy()[None], (0.0, 1.0)) for share, influence in shares)
    return precision, recall


def _nearest(points: Tensor, count: int, block: int) -> tuple[Tensor, Tensor]:
    """Distances and rows (n, count) of the points nearest to each of (n, d), itself included."""
    nearest = [torch.cdist(rows, points).topk(count, largest=False) for rows in torch.split(points, block)]
    return torch.cat([part.values for part in nearest]), torch.cat([part.indices for part in nearest])
