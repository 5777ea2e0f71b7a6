"""Features of the picture sets of a profile, in the network that defines its Frechet distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.feature_cache import cached_rows
from discriminator_guidance.artifacts.files import fingerprint, sha256
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.manifold import neighbour_radii
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute, allow_tf32
from discriminator_guidance.stages.context import Context
from discriminator_guidance.stages.networks import load_fid_network


def picture_features(
    context: Context, compute: Compute, images: Mapping[str, np.ndarray], at_once: BatchSize
) -> dict[str, np.ndarray]:
    """The features of picture sets, from the cache where the same pictures met the same network before.

    Several ranks divide the batches of a set. The first goes on alone with the features of all.

    Args:
        context: where files are.
        compute: device; the network computes in full float32, whatever the mode.
        images: (N, H, W, C) uint8 by name of the set.
        at_once: pictures in one pass.

    Returns:
        (N, d) float32 features by name of the set.

    Raises:
        Dismissed: on all ranks but the first.
    """
    allow_tf32(False)
    layout = context.layout
    network = load_fid_network(layout, compute)
    # Everything that determines the features of a picture, the code included.
    identity = fingerprint(
        {
            "weights": [sha256(layout.model("fid_network") / name) for name in WEIGHT_FILES],
            "code": closure_digest("stages.features"),
            "torch": torch.__version__,
            "device": compute.device.type,
            "threads": torch.get_num_threads(),
            "batch": at_once.size,
        }
    )

    def penultimate(pictures: Tensor) -> Tensor:
        # Not in the precision of sampling: metrics are compared to many digits.
        with torch.no_grad():
            features: Tensor = network.features(pictures)
        return features

    batch = at_once.size  # what the ranks divide by, whatever becomes of one rank's memory

    def extract(name: str) -> np.ndarray:
        pictures = images[name][ranks.own_rows(len(images[name]), batch)]

        def passes(size: int) -> np.ndarray:
            with context.bar("extracting features", len(pictures), "images") as advance:
                return extract_features(penultimate, pictures, size, compute.device, advance)

        own = at_once.attempt(passes) if len(pictures) else np.empty(0, dtype=np.float32)
        features: np.ndarray = ranks.collected(torch.from_numpy(own), len(images[name]), batch).numpy()
        return features

    def together(name: str) -> Callable[[np.ndarray], np.ndarray]:
        # Who reads the cache decides; the others hear of what is not in it.
        return lambda _: extract(ranks.told_by_first(name))

    found = {}
    if ranks.is_first():
        for name, pictures in images.items():
            found[name] = cached_rows(layout.feature_cache, identity, pictures, together(name))
        ranks.told_by_first(None)
    else:
        while (wanted := ranks.told_by_first(None)) is not None:
            extract(wanted)
    at_once.take_in_others()
    ranks.go_on_alone()
    return found


def real_radii(
    context: Context, compute: Compute, real: np.ndarray, neighborhood: int, blocks: BatchSize
) -> np.ndarray:
    """How far the ball around each real picture reaches; the same for all variants, so kept like features.

    Args:
        context: where files are.
        compute: device.
        real: (m, d) features.
        neighborhood: k.
        blocks: pictures whose distances are taken at once.

    Returns:
        (m,) float64 distances to the k-th neighbour.
    """
    identity = fingerprint(
        {
            "radii": neighborhood,
            "code": closure_digest("evaluation.manifold"),
            "torch": torch.__version__,
            "device": compute.device.type,
            "threads": torch.get_num_threads(),
        }
    )

    def radii(features: np.ndarray) -> np.ndarray:
        with context.bar("neighbours of real pictures", len(features), "images") as advance:
            found = blocks.attempt(lambda size: neighbour_radii(features, neighborhood, size, compute.device))
            advance(len(features))
        return found

    return cached_rows(context.layout.feature_cache, identity, real, radii)
