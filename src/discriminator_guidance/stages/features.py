"""Features of the picture sets of a profile, in the network that defines its Frechet distance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.feature_cache import cached_features
from discriminator_guidance.artifacts.files import fingerprint, sha256
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.context import Context
from discriminator_guidance.stages.networks import load_fid_network


def picture_features(
    context: Context, compute: Compute, images: Mapping[str, np.ndarray], batch_size: int
) -> dict[str, np.ndarray]:
    """The features of picture sets, from the cache where the same pictures met the same network before.

    Args:
        context: where files are.
        compute: device; the network computes in full precision, whatever the mode.
        images: (N, H, W, C) uint8 by name of the set.
        batch_size: pictures in one pass.

    Returns:
        (N, d) features by name of the set.
    """
    layout = context.layout
    network = load_fid_network(layout, compute)
    # Everything that determines the features of a picture, the code included.
    identity = fingerprint(
        {
            "weights": [sha256(layout.model("fid_network") / name) for name in WEIGHT_FILES],
            "code": closure_digest("stages.features"),
            "torch": torch.__version__,
            "device": str(compute.device),
            "threads": torch.get_num_threads(),
            "batch": batch_size,
        }
    )

    def penultimate(pictures: Tensor) -> Tensor:
        # Full precision: metrics are compared to many digits, and this pass is cheap.
        with torch.no_grad():
            features: Tensor = network.features(pictures)
        return features

    def extract(pictures: np.ndarray) -> np.ndarray:
        with context.bar("extracting features", len(pictures), "images") as advance:
            return extract_features(penultimate, pictures, batch_size, compute.device, advance)

    return {
        name: cached_features(layout.feature_cache, identity, pictures, extract) for name, pictures in images.items()
    }
