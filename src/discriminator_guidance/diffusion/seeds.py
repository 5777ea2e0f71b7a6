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

if TYPE_CHECKING:  # stages that only read and split images start without torch
    from torch import Tensor


def generator(seed: int, purpose: str, index: int, step: int) -> np.random.Generator:
    """The generator of one stream: seed and index below 2**63; step 0 for streams without steps."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    key = np.array([seed, word], dtype=np.uint64)
    # The lowest word of the counter is the position inside the stream; the others name the stream.
    counter = np.array([0, 0, step, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(seed: int, purpose: str, index: int, step: int, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 numbers of one stream, on the CPU."""
    import torch

    drawn = generator(seed, purpose, index, step).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(drawn)


def normal_batch(seed: int, purpose: str, indices: Sequence[int], step: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers (N, *shape) for N sample indices, each from its own stream."""
    import torch

    return torch.stack([normal(seed, purpose, index, step, shape) for index in indices])


def torch_seed(seed: int, purpose: str, index: int) -> int:
    """A seed for torch's global generator (dropout), below 2**32: all that its CPU generator keeps."""
    return int(generator(seed, purpose, index, 0).integers(2**32))
