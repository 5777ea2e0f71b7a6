"""torchmetrics' distances on features that are already there, the oracle of ours."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance


class PrecomputedFeatures(torch.nn.Module):
    """The identity, in the place where torchmetrics expects a feature network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Features as they come."""
        return features


def fid_torchmetrics(generated: np.ndarray, real: np.ndarray) -> float:
    """The Frechet distance, from the general eigenvalues of a product of covariances."""
    metric = FrechetInceptionDistance(feature=PrecomputedFeatures(generated.shape[1]))
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(generated).double(), real=False)
    return float(metric.compute())


def kid_torchmetrics(
    generated: np.ndarray, real: np.ndarray, subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """The kernel distance over the subsets of a seed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save", category=UserWarning)
        metric = KernelInceptionDistance(PrecomputedFeatures(generated.shape[1]), subsets, subset_size)
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(generated).double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)
