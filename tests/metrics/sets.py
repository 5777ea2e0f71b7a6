"""Feature sets for tests of metrics."""

import numpy as np


def correlated(seed: int, count: int, width: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Skewed, correlated features, a smooth function of per-sample noise."""
    return of_noise(np.random.default_rng(seed).standard_normal((count, width)), scale, shift)


def gaussian_statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and unbiased covariance (d, d) of features (N, d)."""
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def of_noise(noise: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """The features of given noise (N, d)."""
    width = noise.shape[1]
    mixing = np.random.default_rng(99).standard_normal((width, width)) / np.sqrt(width)
    return np.logaddexp(0, scale * noise @ mixing + shift)
