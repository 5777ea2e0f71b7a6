"""Mean and covariance of real features that somebody else computed, such as EDM's `cifar10-32x32.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from discriminator_guidance.data.files import load_arrays
from discriminator_guidance.errors import InputError


def read_statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Arrays mu (D,) and sigma (D, D); nothing in the file is unpickled."""
    remedy = "get the file again, or let evaluation.reference name models/<profile>/fid_network"
    arrays = load_arrays(path, ("mu", "sigma"), remedy)
    mu, sigma = arrays["mu"], arrays["sigma"]
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or {mu.dtype.kind, sigma.dtype.kind} != {"f"}:
        raise InputError(f"mu (D,) and sigma (D, D) in {path}", f"{mu.shape} and {sigma.shape}", remedy)
    return mu, sigma
