"""Feature vectors of pictures, and the checks that every set of them passes before a metric sees it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discriminator_guidance.errors import InputError


def extract_features(
    network: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device | str,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.floating]:
    """The features of pictures, computed in batches without gradients.

    Args:
        network: maps float32 (n, C, H, W) in [-1, 1] on `device` to features (n, d).
        images: (N, H, W, C) uint8, N at least 1.
        batch_size: pictures in one pass of the network.
        device: where `network` computes.
        on_batch: called after every batch with the number of pictures in it.

    Returns:
        (N, d) on the CPU, in the precision of the network; metrics, which take differences of sums over N, go over to
        double themselves (`comparable_features`).

    Raises:
        InputError: the pictures are not uint8 NHWC, there are none, or a feature is not finite.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            "at least one picture, uint8 of shape (N, H, W, C)",
            f"{images.dtype} of shape {images.shape}",
            "rebuild the stage that wrote the pictures",
        )
    batches = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(images[start : start + batch_size]).to(device)
            scaled = pixels.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
            batches.append(network(scaled).cpu().numpy())
            if on_batch is not None:
                on_batch(len(pixels))
    features: NDArray[np.floating] = np.concatenate(batches)
    require_finite_rows(features, "features")
    return features


def require_finite_rows(values: NDArray[np.floating], name: str) -> None:
    """Refuses rows that hold NaN or infinity.

    Args:
        values: (N, ...).
        name: what they are, for the message.

    Raises:
        InputError: names the first such row.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(
            f"finite {name}",
            f"NaN or infinity in row {row} ({np.count_nonzero(~finite)} such rows of {len(values)})",
            f"look at sample {row}: the picture or the network that produced it is damaged",
        )


def comparable_features(
    generated: NDArray[np.floating], real: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two sets of features in double precision, checked to be fit for a comparison.

    Args:
        generated: (n, d) features, n at least 2.
        real: (m, d) features of the same network, m at least 2.

    Returns:
        Both sets as float64.

    Raises:
        InputError: a set has fewer than two rows, a wrong number of dimensions or a value that is not finite,
            or the two widths differ.
    """
    sets = []
    for name, features in (("generated features", generated), ("real features", real)):
        if features.ndim != 2 or len(features) < 2:
            raise InputError(
                f"{name} of shape (N, d) with N at least 2",
                f"shape {features.shape}",
                "a mean and a covariance need two samples: ask for more images",
            )
        doubles = np.asarray(features, dtype=np.float64)
        require_finite_rows(doubles, name)
        sets.append(doubles)
    if sets[0].shape[1] != sets[1].shape[1]:
        raise InputError(
            "generated and real features of one width",
            f"widths {sets[0].shape[1]} and {sets[1].shape[1]}",
            "extract both sets with the same network",
        )
    return sets[0], sets[1]
