"""Distances between two sets of features: Frechet and kernel.

The Frechet distance between Gaussians is |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2); only the last
trace is work. It is the sum of the singular values of R1 R2^T for any roots with Ri^T Ri = Si, which gives
three ways to it:

- S1 = L L^T (Cholesky); the eigenvalues of the symmetric L^T S2 L are those of S1 S2, and their roots are
  summed. Fast, but an eigenvalue near 0 is known only to eps times the largest, its root to sqrt(eps): when
  the smallest is not `RESOLVED`, as is always so at deficient rank, the next way is taken.
- Ri from the eigenvectors of Si, without eigenvalues that are rounding; then the singular values of R1 R2^T,
  which are accurate to eps even where they are 0.
- Ri from the features themselves (the centred rows, or their QR factor): as exact as the data, for N <= d.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import comparable_features

Matrix = NDArray[np.float64]

# Smallest eigenvalue, relative to the largest, that is told from rounding.
RESOLVED = 100 * np.finfo(np.float64).eps


def kid(
    generated: NDArray[np.floating],
    real: NDArray[np.floating],
    subsets: int,
    subset_size: int,
    seed: int,
) -> tuple[float, float]:
    """The kernel distance: squared maximum mean discrepancy under a cubic polynomial kernel, averaged over subsets.

    Args:
        generated: (n, d) features of generated pictures.
        real: (m, d) features of real pictures.
        subsets: how many random subsets are averaged, at least 1.
        subset_size: pictures in a subset, drawn without replacement; 2 <= subset_size <= min(n, m).
        seed: which subsets; equal seeds and set sizes give equal subsets, those that torchmetrics draws after
            `torch.manual_seed(seed)`.

    Returns:
        Mean and population standard deviation of the unbiased squared MMD over subsets.

    Raises:
        InputError: see `comparable_features`, or a subset that is larger than a set.

    Source: Binkowski et al. 2018, Section 3 (kernel (x.y / d + 1)^3).
    """
    generated, real = comparable_features(generated, real)
    if subsets < 1 or not 2 <= subset_size <= min(len(generated), len(real)):
        raise InputError(
            f"at least 1 KID subset of 2 to {min(len(generated), len(real))} pictures",
            f"{subsets} subsets of {subset_size}",
            "change the number or the size of the KID subsets, or sample more images",
        )
    draw = torch.Generator().manual_seed(seed)

    def subset(features: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(features[torch.randperm(len(features), generator=draw)[:subset_size].numpy()])

    # The real subset comes first, as in torchmetrics.
    distances = [_unbiased_mmd2(subset(real), subset(generated)) for _ in range(subsets)]
    return float(np.mean(distances)), float(np.std(distances))


def _unbiased_mmd2(x: Tensor, y: Tensor) -> float:
    """Binkowski et al. 2018, Eq. 4, of two sets (m, d) of equal size."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    m, within = len(x), [kernel(x, x), kernel(y, y)]
    pairs = sum(float(k.sum() - k.trace()) for k in within)
    return pairs / (m * (m - 1)) - 2 * float(kernel(x, y).mean())


def gaussian_statistics(features: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """Mean and unbiased covariance of features.

    Args:
        features: (N, d), N at least 2.

    Returns:
        Mean (d,) and covariance (d, d) with divisor N - 1, float64.

    Raises:
        InputError: see `comparable_features`.
    """
    features, _ = comparable_features(features, features)
    mean: Matrix = features.mean(axis=0)
    centred = features - mean
    covariance: Matrix = centred.T @ centred / (len(features) - 1)
    return mean, covariance


def covariance_root(features: NDArray[np.floating]) -> Matrix:
    """A matrix R with R^T R the unbiased covariance of features, made without forming the covariance.

    Args:
        features: (N, d), N at least 2.

    Returns:
        (min(N, d), d) float64: the scaled centred rows, or their triangular QR factor if more than d, which is built up
        block by block: beside the features it needs memory for three d x d matrices only.
    """
    mean, width = features.mean(axis=0, dtype=np.float64), features.shape[1]
    root: Matrix = np.empty((0, width))
    for start in range(0, len(features), 2 * width):
        rows = (features[start : start + 2 * width] - mean) / np.sqrt(len(features) - 1)
        stacked = np.concatenate([root, rows])
        root = stacked if len(stacked) <= width else np.asarray(np.linalg.qr(stacked, mode="r"))
    return root


def frechet_distance(mu1: Matrix, sigma1: Matrix, mu2: Matrix, sigma2: Matrix) -> float:
    """The squared Frechet (Wasserstein-2) distance between two Gaussians, where many distances are needed.

    Args:
        mu1: (d,) mean.
        sigma1: (d, d) covariance, of any rank.
        mu2: (d,) mean.
        sigma2: (d, d) covariance, of any rank.

    Returns:
        The distance; for equal arguments 0 up to rounding, which may be negative.

    Raises:
        InputError: shapes do not fit, or a value is not finite.

    Source: Heusel et al. 2017, Eq. 6; Dowson & Landau 1982.
    """
    width = mu1.shape[0]
    if mu2.shape != (width,) or sigma1.shape != (width, width) or sigma2.shape != (width, width):
        raise InputError(
            f"means of shape ({width},) and covariances of shape ({width}, {width})",
            f"shapes {mu1.shape}, {sigma1.shape}, {mu2.shape} and {sigma2.shape}",
            "extract both sets with the same network",
        )
    if not all(np.isfinite(values).all() for values in (mu1, sigma1, mu2, sigma2)):
        raise InputError(
            "finite means and covariances",
            "a value that is not finite",
            "look for damaged pictures in the two sets",
        )
    spread = float(np.trace(sigma1) + np.trace(sigma2))
    return float(np.sum((mu1 - mu2) ** 2)) + spread - 2 * trace_of_root(sigma1, sigma2)


def frechet_distance_from_features(generated: NDArray[np.floating], real: NDArray[np.floating]) -> float:
    """The squared Frechet distance between Gaussians fitted to features, as reported; exact for any number of samples.

    Args:
        generated: (n, d) features, n at least 2.
        real: (m, d) features, m at least 2.

    Returns:
        The distance; for equal sets 0 up to rounding, which may be negative.

    Raises:
        InputError: see `comparable_features`.

    Source: Heusel et al. 2017, Eq. 6.
    """
    generated, real = comparable_features(generated, real)
    if min(len(generated), len(real)) > generated.shape[1]:
        return frechet_distance(*gaussian_statistics(generated), *gaussian_statistics(real))
    root1, root2 = covariance_root(generated), covariance_root(real)
    mean_term = float(np.sum((generated.mean(axis=0) - real.mean(axis=0)) ** 2))
    return mean_term + float(np.sum(root1**2) + np.sum(root2**2)) - 2 * _nuclear_norm(root1 @ root2.T)


def trace_of_root(sigma1: Matrix, sigma2: Matrix) -> float:
    """The trace of the matrix square root of a product of covariances.

    Args:
        sigma1: (d, d) positive semi-definite.
        sigma2: (d, d) positive semi-definite.

    Returns:
        tr (sigma1 sigma2)^(1/2), by the first of the ways above that is accurate.
    """
    try:
        lower = np.linalg.cholesky(sigma1)
    except np.linalg.LinAlgError:
        return _nuclear_norm(_spectral_root(sigma1) @ _spectral_root(sigma2).T)
    eigenvalues = np.linalg.eigvalsh(lower.T @ sigma2 @ lower)
    if eigenvalues[0] > RESOLVED * eigenvalues[-1]:
        return float(np.sum(np.sqrt(eigenvalues)))
    return _nuclear_norm(_spectral_root(sigma1) @ _spectral_root(sigma2).T)


def _spectral_root(sigma: Matrix) -> Matrix:
    eigenvalues, vectors = np.linalg.eigh(sigma)
    kept = eigenvalues > len(sigma) * np.finfo(np.float64).eps * max(eigenvalues[-1], 0.0)
    root: Matrix = np.sqrt(eigenvalues[kept])[:, None] * vectors[:, kept].T
    return root


def _nuclear_norm(matrix: Matrix) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum())
