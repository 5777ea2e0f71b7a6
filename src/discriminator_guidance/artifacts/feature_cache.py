"""Features of a picture set, kept by content, so that a changed metric never repeats the feature pass."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from discriminator_guidance.artifacts.files import write_npz
from discriminator_guidance.artifacts.images import content_digest


def cached_features(
    folder: Path, network: str, images: np.ndarray, extract: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Features from the cache, or extracted and put there.

    Args:
        folder: the cache; safe to delete.
        network: digest of everything that determines the features of a picture: weights, precision, device.
        images: (N, H, W, C) uint8.
        extract: images -> (N, d) float64 features.

    Returns:
        (N, d) float64 features.
    """
    content = content_digest(images)
    path = folder / f"{network[:16]}-{content[:16]}.npz"
    kept = _read(path, network, content)
    if kept is not None and len(kept) == len(images):
        return kept
    features = extract(images)
    write_npz(path, features=features, network=np.array(network), content=np.array(content))
    return features


def _read(path: Path, network: str, content: str) -> np.ndarray | None:
    # A damaged or foreign file is not an error: the features are simply computed again.
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["network"]) != network or str(archive["content"]) != content:
                return None
            features: np.ndarray = archive["features"]
            return features
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
