"""The feature pass and the metrics, the plain way and this project's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.benchmark.groups import Comparison, Group
from discriminator_guidance.benchmark.peaks import finished
from discriminator_guidance.benchmark.sampling import Networks
from discriminator_guidance.benchmark.timing import Way
from discriminator_guidance.evaluation.distances import frechet_distance
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.inception import random_inception
from discriminator_guidance.evaluation.manifold import precision_recall
from discriminator_guidance.networks.memory import keep_memory, return_memory
from discriminator_guidance.planning.metrics import manifold_flops, symmetric_frechet_flops

FEATURES = 2048
PICTURES = 10_000  # of each kind, for precision and recall
NEIGHBORHOOD = 3


def feature_group(networks: Networks) -> Group:
    """The pass whose features the Frechet distance compares, in float32.

    Args:
        networks: of a profile.

    Returns:
        One row.
    """
    torch.manual_seed(1)
    network = networks.blueprints.fid_network() or random_inception()
    network = network.to(networks.device).eval()
    flops = networks.flops("fid features")
    n = networks.batch(flops, networks.config.evaluation.batch_size)
    channels, height, width = networks.shape
    pictures = np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)

    def features(batch: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = network.features(batch)
        return found

    def plainly() -> Tensor:
        batch = torch.from_numpy(pictures).to(networks.device).permute(0, 3, 1, 2)
        return features(batch.float() / 127.5 - 1).cpu()

    def ours() -> Tensor:
        return torch.from_numpy(extract_features(features, pictures, n, networks.device))

    ways = {
        "reference": Way(finished(plainly, networks.device), return_memory),
        "ours": Way(finished(ours, networks.device), keep_memory),
    }
    return Group(ways, [Comparison("fid_features", "reference", "ours", n, n * flops, "convolution fp32")])


def frechet_group(width: int = FEATURES) -> Group:
    """The Frechet distance between two Gaussians.

    Args:
        width: d.

    Returns:
        Two rows: the plain way takes the matrix square root of a product that is not symmetric; torch-fidelity's own
        function its general eigenvalues.
    """
    from scipy.linalg import sqrtm
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    rng = np.random.default_rng(0)
    mu1, mu2 = rng.standard_normal((2, width))
    sigma1, sigma2 = (_covariance(rng, width) for _ in range(2))

    def plainly() -> Tensor:
        root = sqrtm(sigma1 @ sigma2).real
        return torch.tensor(((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root))

    def fidelity() -> Tensor:
        statistics = [{"mu": mu, "sigma": sigma} for mu, sigma in ((mu1, sigma1), (mu2, sigma2))]
        return torch.tensor(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])

    def ours() -> Tensor:
        return torch.tensor(frechet_distance(mu1, sigma1, mu2, sigma2))

    ways = {
        "reference": Way(plainly, return_memory),
        "torch-fidelity": Way(fidelity, return_memory),
        "ours": Way(ours, keep_memory),
    }
    flops, name = symmetric_frechet_flops(width), f"frechet_{width}"
    rows = {name: "reference", f"{name}_torch_fidelity": "torch-fidelity"}
    return Group(ways, [Comparison(row, way, "ours", 2, flops, "gemm fp64") for row, way in rows.items()])


def manifold_group(pictures: int = PICTURES, width: int = FEATURES) -> Group:
    """Precision and recall by nearest neighbours.

    Args:
        pictures: of each kind.
        width: of the features.

    Returns:
        One row; the plain way holds whole matrices of distances.
    """
    rng = np.random.default_rng(0)
    real = rng.standard_normal((pictures, width)).astype(np.float32)
    generated = (1.05 * rng.standard_normal((pictures, width))).astype(np.float32)

    def plainly() -> Tensor:
        radii = [_kth(_distances(rows, rows)) for rows in (generated, real)]
        between = _distances(generated, real)
        precision = (between <= radii[1][None, :]).any(axis=1).mean()
        recall = (between <= radii[0][:, None]).any(axis=0).mean()
        return torch.tensor([precision, recall])

    def ours() -> Tensor:
        return torch.tensor(precision_recall(generated, real, NEIGHBORHOOD))

    ways = {"reference": Way(plainly, return_memory), "ours": Way(ours, keep_memory)}
    flops = manifold_flops(pictures, pictures, width)
    name = f"precision_recall_{pictures // 1000}k"
    return Group(ways, [Comparison(name, "reference", "ours", 2 * pictures, flops, "gemm fp64")])


def _covariance(rng: np.random.Generator, width: int) -> NDArray[np.float64]:
    rows = rng.standard_normal((3 * width, width)) * np.linspace(0.1, 2.0, width)
    covariance: NDArray[np.float64] = rows.T @ rows / len(rows)
    return covariance


def _distances(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    squared = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0.0))
    return distances


def _kth(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    radii: NDArray[np.float64] = np.partition(distances, NEIGHBORHOOD, axis=1)[:, NEIGHBORHOOD]
    return radii
