"""Frechet and kernel distances, precision and recall of sets of features, and the influence of each image on them."""

import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.runtime import usable
from discriminator_guidance.metrics.features import Doubles, Floats, comparable, extract_features
from discriminator_guidance.metrics.significance import Estimate

Device = torch.device | str
EPS = np.finfo(np.float64).eps


class Gaussian(NamedTuple):
    """Mean (d,) and root (k, d), R with R^T R the covariance, in double precision.

    Tensors, because torch obeys `set_num_threads`: sums by numpy's BLAS would change with the machine's processors.
    """

    mean: Tensor
    root: Tensor


def gaussian_of_features(features: Floats) -> Gaussian:
    """The Gaussian of (N, d) features with unbiased covariance."""
    rows = torch.from_numpy(*comparable(features))
    mean = rows.mean(dim=0)
    return Gaussian(mean, torch.linalg.qr((rows - mean) / (len(rows) - 1) ** 0.5, mode="r").R)


def frechet_influence(generated: Floats, reference: Gaussian) -> tuple[float, Doubles]:
    """Frechet distance F of (n, d) generated features to a Gaussian, and the influence (n,) of each of them on it.

    With z_i = x_i - mu and unbiased covariances S (generated) and S_r (reference), dF = 2 (mu - mu_r).dmu +
    tr((I - T) dS), where T = S_r^(1/2) (S_r^(1/2) S S_r^(1/2))^(-1/2) S_r^(1/2) is the optimal transport map (Dowson &
    Landau 1982). More weight on image i moves mu by z_i and S by n/(n-1) z_i z_i^T - S, so that
    psi_i = 2 (mu - mu_r).z_i + n/(n-1) z_i^T (I - T) z_i - tr((I - T) S), whose mean is 0 (Efron 1982, Chapter 6).

    Neither S nor T is formed: with A^T A = S, R^T R = S_r and A R^T = U diag(s) V^T, T = P P^T for
    P = R^T V diag(s)^(-1/2). Directions with s = 0 up to rounding are left out: T takes the pseudo-inverse.
    """
    fitted, (n, width) = gaussian_of_features(generated), np.shape(generated)
    _, singular_values, right = torch.linalg.svd(fitted.root @ reference.root.T, full_matrices=False)
    kept = singular_values > max(width, n) * EPS * singular_values[0]
    transport_root = (reference.root.T @ right[kept].T) / singular_values[kept].sqrt()
    centred = torch.from_numpy(*comparable(generated)) - fitted.mean
    spread = centred.square().sum(dim=1) - (centred @ transport_root).square().sum(dim=1)
    influence = 2 * centred @ (fitted.mean - reference.mean) + n / (n - 1) * spread
    return distance_of_gaussians(fitted, reference, singular_values), (influence - influence.mean()).numpy()


def debiased_distance(generated: Floats, reference: Gaussian, groups: int = 10) -> float:
    """The Frechet distance F of (n, d) features without its bias of order 1 / n, by a grouped jackknife.

    g F - (g - 1) mean_j F_(-j), where F_(-j) leaves out the rows j, j + g, ... (Efron 1982, Chapter 2). It may be
    negative. For n that is not well above d, higher orders of the bias remain.
    """
    distance = distance_of_gaussians(gaussian_of_features(generated), reference)
    others = (np.delete(generated, np.s_[group::groups], axis=0) for group in range(groups))
    without = [distance_of_gaussians(gaussian_of_features(rows), reference) for rows in others]
    return float(groups * distance - (groups - 1) * np.mean(without))


def distance_of_gaussians(first: Gaussian, second: Gaussian, singular_values: Tensor | None = None) -> float:
    """The squared Frechet distance; singular values of the product of the roots, if they are known."""
    if singular_values is None:
        product = first.root @ second.root.T
        # Of the smaller Gram matrix, which has fewer zeros: three times as fast as svdvals at a width of 2,048.
        gram = product @ product.T if len(product) <= product.shape[1] else product.T @ product
        singular_values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    traces = first.root.square().sum() + second.root.square().sum() - 2 * singular_values.sum()
    return float((first.mean - second.mean).square().sum() + traces)


BLOCK = 2**24  # elements of the kernel matrix at a time: 128 MB


class KernelSet(NamedTuple):
    """Features (n, d) on a device, and the mean of each row's kernel with every other row (n,)."""

    features: Tensor
    within: Tensor

    @classmethod
    def of(cls, features: Floats, device: Device = "cpu") -> Self:
        """Sum a set's own kernel, once for all comparisons of this set."""
        rows = torch.from_numpy(*comparable(features)).to("cpu" if usable(device).type == "mps" else device)  # float64
        return cls(rows, (_kernel_sums(rows, rows) - (rows.square().mean(dim=1) + 1) ** 3) / (len(rows) - 1))


def kid_influence(generated: KernelSet, real: KernelSet) -> tuple[float, Doubles]:
    """KID, the unbiased squared MMD over all images, and the influence (n,) of each generated image on it.

    With k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018), a_i the mean of k(x_i, x_j) over j != i, b_i that
    of k(x_i, y_j) over the real images, and c that of k(y_i, y_j) over i != j, MMD^2 = mean_i (a_i - 2 b_i) + c and
    psi_i = 2 (a_i - b_i) - 2 mean_j (a_j - b_j), whose mean is 0 (Efron 1982, Chapter 6). The real images are fixed.
    The cubic kernel skews MMD^2 to large values, so that intervals of a few hundred images cover less than they say.

    *Deviation:* all images in place of the mean over random subsets, of which this is the limit.
    """
    across = _kernel_sums(generated.features, real.features) / len(real.features)
    distance = (generated.within - 2 * across).mean() + real.within.mean()
    influence = 2 * (generated.within - across)
    return float(distance), (influence - influence.mean()).cpu().numpy()


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    blocks = torch.split(x, max(1, BLOCK // len(y)))
    return torch.cat([(rows @ y.T).div_(x.shape[1]).add_(1).pow_(3).sum(dim=1) for rows in blocks])


def precision_recall(
    generated: Floats, real: Floats, neighborhood: int, block: int = 1000, device: Device = "cpu"
) -> tuple[Estimate, Estimate]:
    """The share of each set, (n, d) generated and (m, d) real, that lies on the k-NN manifold of the other.

    Not the classification scores of a discriminator. Each estimate has one replicate; the real images are fixed. The
    influence on recall is the jackknife's, psi_i = (n - 1) (mean_j R_(-j) - R_(-i)), where R_(-i) leaves image i out:
    real images in no other ball are lost, and balls that have i among their k nearest neighbours grow to the next one.
    Its variance is at least the true one on average (Efron & Stein 1981): intervals came out twice as wide as they need
    be on Gaussian features. Memory: about four times block x max(n, m) doubles.
    """
    x, y = (torch.from_numpy(features).to(device) for features in comparable(generated, real))
    n, k = len(x), neighborhood
    real_radius = _nearest(y, k + 1, block)[0][:, k]  # itself is the nearest
    precise = torch.cat([(torch.cdist(rows, y) <= real_radius).any(dim=1) for rows in torch.split(x, block)]).double()
    precision = Estimate((float(precise.mean()),), (precise - precise.mean()).cpu().numpy()[None], (0.0, 1.0))
    distances, nearest = _nearest(x, k + 2, block)
    radius, next_radius = distances[:, k], distances[:, k + 1]  # of a ball, and of it without one of its neighbours
    owner, neighbour = torch.arange(n, device=x.device).repeat_interleave(k + 1), nearest[:, : k + 1].flatten()
    indices = torch.stack([neighbour, owner])[:, neighbour != owner]
    neighbours = torch.sparse_coo_tensor(indices, torch.ones_like(indices[0]).float(), (n, n), check_invariants=True)
    recalled, gained = 0, x.new_zeros(n)  # real images in a ball; how many more are when an image is left out
    for rows in torch.split(y, block):
        distance = torch.cdist(rows, x)
        covered, reached = distance <= radius, distance <= next_radius
        balls = covered.sum(dim=1)
        recalled += int((balls > 0).sum())
        replaced = (neighbours @ reached.float().T).T > 0  # [j, i]: real image j, without i, is in a wider ball
        gained += replaced[balls == 0].sum(dim=0) - (covered & ~replaced)[balls == 1].sum(dim=0)
    lost = (n - 1) / len(y) * (gained.mean() - gained)
    return precision, Estimate((recalled / len(y),), lost.cpu().numpy()[None], (0.0, 1.0))


def _nearest(points: Tensor, count: int, block: int) -> tuple[Tensor, Tensor]:
    """Distances and rows (n, count) of the points nearest to each of (n, d), itself included."""
    nearest = [torch.cdist(rows, points).topk(count, largest=False) for rows in torch.split(points, block)]
    return torch.cat([part.values for part in nearest]), torch.cat([part.indices for part in nearest])


Rows = NDArray[Any]
Sets = Rows | Sequence[Rows]  # a list: one set of images for each training seed
Network = Callable[[Tensor], Tensor] | None  # images -> features


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float  # the estimate
    low: float  # the interval's lower end
    high: float  # and its upper end


def frechet_distance(
    generated: Sets, reference: Rows, *, baseline: Sets | None = None, network: Network = None, device: Device = "cpu"
) -> Interval:
    """The Frechet distance of generated to real images, or its difference from a baseline's, with a 95 % interval.

    Args:
        generated: features (N, d), or uint8 images (N, H, W, C) with a `network`. A list of sets, one for each
            discriminator that was trained with another seed, gives their mean; the interval then covers training too.
        reference: the same of real images.
        baseline: other generated images, or a list of sets; row i must share its noise with row i of `generated` (one
            seed of `sample`). The result is the paired difference; below 0, `generated` is better.
        network: of features, given float32 (N, C, H, W) in [-1, 1], such as that of `train_features`.
        device: where to compute features.

    >>> noise, real = np.random.default_rng(0).normal(size=(2, 1000, 4))
    >>> value, low, high = frechet_distance(noise + 0.5, real)
    >>> low < 1.0 < high  # the squared distance of the means
    True
    """
    real, *sets = _features_of(generated, reference, baseline, network, device)
    gaussian = gaussian_of_features(real)
    return _interval(sets, lambda rows: frechet_influence(rows, gaussian))


def kernel_distance(
    generated: Sets, reference: Rows, *, baseline: Sets | None = None, network: Network = None, device: Device = "cpu"
) -> Interval:
    """The kernel distance (KID), whose mean does not depend on N, or its difference from a baseline's.

    Args:
        generated: features (N, d), uint8 images with a `network`, or a list of such sets, as in `frechet_distance`.
        reference: the same of real images.
        baseline: other generated images; the result is the paired difference.
        network: of features.
        device: where to compute features and kernels.

    >>> bool(kernel_distance(np.ones((9, 4)), np.zeros((9, 4))).value > 0)
    True
    """
    real, *sets = _features_of(generated, reference, baseline, network, device)
    kernels = KernelSet.of(real, device)
    return _interval(sets, lambda rows: kid_influence(KernelSet.of(rows, device), kernels))


def _features_of(
    generated: Sets, reference: Rows, baseline: Sets | None, network: Network, device: Device
) -> list[Any]:
    """Features of the reference, and lists of those of generated images and of the baseline, if there is one."""
    parts = [generated] if baseline is None else [generated, baseline]
    sets: list[Any] = [part if isinstance(part, list | tuple) else [part] for part in parts]
    counts = sorted({len(rows) for part in sets for rows in part})
    if len(counts) != 1 or not all(map(len, sets)):
        problem = f"the sets have {' and '.join(map(str, counts)) or 'no'} images, and distances change with the number"
        raise InputError(problem, "give as many in each")

    def features(rows: Rows) -> Rows:
        return rows if network is None else extract_features(network, rows, 256, device)

    real, *lists = features(reference), *([features(rows) for rows in part] for part in sets)
    for rows in chain.from_iterable(lists):  # one by one, for comparable copies them
        comparable(real, rows)
    warn_of_few(min(*counts, len(real)), np.shape(real)[1])
    return [real, *lists]


def warn_of_few(images: int, features: int) -> None:
    """Warn of sets with fewer images than features, whose covariance has no full rank."""
    if images <= features:
        text = f"{images} images are fewer than the {features} features: distances say little; draw more"
        warnings.warn(text, stacklevel=4)


def _interval(sets: Sequence[Sequence[Rows]], measured: Callable[[Rows], tuple[float, Doubles]]) -> Interval:
    estimate, *unguided = (Estimate.of(map(measured, rows)) for rows in sets)
    for baseline in unguided:
        repeated = len(estimate.values) if len(baseline.values) == 1 else 1
        estimate = estimate.minus(Estimate(baseline.values * repeated, baseline.influence.repeat(repeated, axis=0)))
    return Interval(estimate.mean, *estimate.interval())
