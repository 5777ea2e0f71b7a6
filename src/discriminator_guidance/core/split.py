"""The fixed split of real and fake images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from discriminator_guidance.core.noise import generator
from discriminator_guidance.core.settings import SplitSettings


@dataclass(frozen=True)
class Split:
    """Sorted rows of real ++ fake for training, validation and test."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_pairs(real: int, fake: int, shares: SplitSettings, most: int | None = None) -> Split:
    """The fixed split of `real` and `fake` images, each kind split in the same shares; `most` images of each kind."""
    parts: list[list[np.ndarray]] = [[], [], []]
    for label, (first, count) in enumerate([(0, real), (real, fake)]):
        rows = first + generator(shares.seed, "split", label, 0).permutation(count)[:most]
        ends = [round(shares.train * len(rows)), round((shares.train + shares.validation) * len(rows))]
        for part, chunk in zip(parts, np.split(rows, ends), strict=True):
            part.append(chunk)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))
