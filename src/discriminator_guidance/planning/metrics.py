"""Leading terms of the work in the metrics, by which a small timing is carried over to the full sets.

n generated and m real pictures with d features; 2 operations for each multiply-add.
"""

from __future__ import annotations


def frechet_flops(n: int, m: int, d: int) -> float:
    """Two covariances and the distance between them.

    Args:
        n: generated pictures.
        m: real pictures.
        d: features.

    Returns:
        FLOPs.
    """
    return 2.0 * (n + m) * d**2 + symmetric_frechet_flops(d)


def symmetric_frechet_flops(d: int) -> float:
    """A triangular root of one covariance, two products, and the eigenvalues of a symmetric matrix.

    Args:
        d: features.

    Returns:
        FLOPs.

    Source: Golub & Van Loan, Matrix Computations (d^3 / 3 for the root, 4/3 d^3 for the eigenvalues).
    """
    return (1 / 3 + 4 + 4 / 3) * d**3


def influence_flops(n: int, m: int, d: int) -> float:
    """QR of both sets, the singular value decomposition of their product, and the generated rows in its directions.

    Args:
        n: generated pictures.
        m: real pictures.
        d: features.

    Returns:
        FLOPs.

    Source: Golub & Van Loan, Matrix Computations (2 n d^2 for the factor, 26 d^3 for the decomposition).
    """
    return 2.0 * (n + m) * d**2 + 2.0 * d**3 + 26.0 * d**3 + 2.0 * n * d**2


def kid_flops(subsets: int, size: int, d: int) -> float:
    """Three kernel matrices for each subset.

    Args:
        subsets: how many.
        size: pictures in one.
        d: features.

    Returns:
        FLOPs.
    """
    return 6.0 * subsets * size**2 * d


def manifold_flops(n: int, m: int, d: int) -> float:
    """Distances inside both sets and between them.

    Args:
        n: generated pictures.
        m: real pictures.
        d: features.

    Returns:
        FLOPs.
    """
    return 2.0 * d * (n**2 + n * m + m**2)
