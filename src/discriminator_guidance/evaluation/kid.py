"""The kernel distance between two sets of features, from torchmetrics."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.features import Floats, comparable


def kid(generated: Floats, real: Floats, subsets: int, subset_size: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation, over random subsets of both sets, of the unbiased squared MMD with a cubic kernel.

    Binkowski et al. 2018, Section 3. `seed` alone decides the subsets; the global random state stays as it was.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    generated, real = comparable(generated, real)
    most = min(len(generated), len(real))
    if subsets < 1 or not 2 <= subset_size <= most:
        expected, found = f"at least 1 KID subset of 2 to {most} images", f"{subsets} subsets of {subset_size}"
        raise InputError(expected, found, "change the number or the size of the KID subsets, or sample more images")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save", category=UserWarning)
        # One rank of torchrun computes: a synchronisation would wait for the others for ever.
        metric = KernelInceptionDistance(nn.Identity(), subsets, subset_size, sync_on_compute=False)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)
