"""The kernel distance between two sets of features: from torchmetrics, and with the influence of every image."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from discriminator_guidance.errors import InputError
from discriminator_guidance.metrics.features import Doubles, Floats, comparable

ROWS = 256  # of the kernel matrix in a block: 100 MB for 50,000 columns


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
        # One rank of torchrun computes: a synchronisation would wait for the others without end.
        metric = KernelInceptionDistance(nn.Identity(), subsets, subset_size, sync_on_compute=False)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def kid_influence(generated: Floats, real: Floats) -> tuple[float, Doubles]:
    """KID's unbiased squared MMD over all images, no subsets, and the influence (n,) of each generated image on it.

    With k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018), a_i the mean of k(x_i, x_j) over j != i, b_i that
    of k(x_i, y_j) over the real images, and c that of k(y_i, y_j) over i != j, MMD^2 = mean_i (a_i - 2 b_i) + c and
    psi_i = 2 (a_i - b_i) - 2 mean_j (a_j - b_j), whose mean is 0 (Efron 1982, Chapter 6). The real images are fixed.
    The cubic kernel skews MMD^2 to large values, so that intervals of a few hundred images cover less than they say.
    """
    x, y = (torch.from_numpy(features) for features in comparable(generated, real))
    within, across = _mean_kernel_of_others(x), _kernel_sums(x, y) / len(y)
    distance = (within - 2 * across).mean() + _mean_kernel_of_others(y).mean()
    influence = 2 * (within - across)
    return float(distance), (influence - influence.mean()).numpy()


def _mean_kernel_of_others(x: Tensor) -> Tensor:
    itself = (x.square().mean(dim=1) + 1) ** 3
    return (_kernel_sums(x, x) - itself) / (len(x) - 1)


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([(rows @ y.T).div_(x.shape[1]).add_(1).pow_(3).sum(dim=1) for rows in torch.split(x, ROWS)])
