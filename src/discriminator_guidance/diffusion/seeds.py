"""Random streams that depend only on what they are for: (run seed, purpose, index, step).

Philox is counter-based: seed and purpose form the key, index and step the counter. Two different streams never
overlap, whatever was drawn, skipped, resumed or sharded elsewhere. (torch's CPU generator keeps 32 bits of its seed,
so hashed seeds would collide within a study of 50,000 images.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # stages that only read and split pictures start without torch
    from torch import Tensor


def generator(seed: int, purpose: str, index: int, step: int) -> np.random.Generator:
    """The generator of one stream.

    Args:
        seed: run seed, 0 <= seed < 2**63.
        purpose: what the numbers are for, e.g. "latent".
        index: sample index or iteration, 0 <= index < 2**63.
        step: sampler step, 0 for streams without steps.

    Returns:
        A generator at the beginning of the stream.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    key = np.array([seed, word], dtype=np.uint64)
    # The lowest word of the counter is the position inside the stream; the others name the stream.
    counter = np.array([0, 0, step, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(seed: int, purpose: str, index: int, step: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of one stream.

    Args:
        seed: run seed.
        purpose: what the numbers are for.
        index: sample index or iteration.
        step: sampler step.
        shape: shape of the tensor.

    Returns:
        float32 CPU tensor.
    """
    import torch

    drawn = generator(seed, purpose, index, step).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(drawn)


def normal_batch(seed: int, purpose: str, indices: Sequence[int], step: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers for several samples, each from its own stream.

    Args:
        seed: run seed.
        purpose: what the numbers are for.
        indices: N sample indices.
        step: sampler step.
        shape: shape of one sample.

    Returns:
        (N, *shape) float32 CPU tensor.
    """
    import torch

    return torch.stack([normal(seed, purpose, index, step, shape) for index in indices])


def torch_seed(seed: int, purpose: str, index: int) -> int:
    """A seed for torch's global generator (dropout), from the stream of an iteration.

    Args:
        seed: run seed.
        purpose: what the numbers are for.
        index: iteration.

    Returns:
        0 <= seed < 2**32, all that torch's CPU generator keeps.
    """
    return int(generator(seed, purpose, index, 0).integers(2**32))
