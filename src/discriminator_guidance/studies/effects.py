"""Designs of two-level experiments, what they confound, and the effects they estimate, with intervals.

A factor is at level -1 or +1. The effect of a factor is the mean response at +1 minus that at -1; the interaction of
two is the effect of the product of their levels. A regular fraction runs 2^(k - p) of the 2^k combinations: p factors
take the product of others as their level, and every effect is then estimated together with its aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.significance import standard_error

Effect = tuple[str, ...]  # the factors whose levels are multiplied, in the order of the design
Levels = NDArray[np.int64]


@dataclass(frozen=True)
class Fraction:
    """A regular two-level fraction (Box, Hunter & Hunter 2005, Chapter 6)."""

    factors: tuple[str, ...]  # all k, in the order of the columns
    base: tuple[str, ...]  # the k - p that take every combination
    generators: Mapping[str, tuple[str, ...]]  # of each other factor those whose levels are multiplied to give its own

    def levels(self) -> Levels:
        """The runs, (2^(k - p), k) of -1 and +1."""
        runs = np.array(list(product((-1, 1), repeat=len(self.base))))
        column = {name: runs[:, index] for index, name in enumerate(self.base)}
        for name, multiplied in self.generators.items():
            column[name] = np.prod([column[other] for other in multiplied], axis=0)
        return np.stack([column[name] for name in self.factors], axis=1)

    def words(self) -> list[Effect]:
        """The defining relation: the 2^p - 1 products that are +1 in every run, shortest first."""
        generated = [frozenset({name, *multiplied}) for name, multiplied in self.generators.items()]
        words = set()
        for size in range(1, len(generated) + 1):
            for chosen in combinations(generated, size):
                word: frozenset[str] = frozenset()
                for generator in chosen:
                    word ^= generator
                words.add(word)
        return sorted(map(self._effect, words), key=lambda word: (len(word), self._columns(word)))

    def resolution(self) -> int:
        """The length of the shortest word: at IV no main effect is aliased with another or a two-factor interaction."""
        return min((len(word) for word in self.words()), default=len(self.factors) + 1)

    def aliases(self, effect: Effect, order: int) -> list[Effect]:
        """The other effects of at most `order` factors whose column is the same."""
        shared = [self._effect(frozenset(effect) ^ frozenset(word)) for word in self.words()]
        return sorted((alias for alias in shared if len(alias) <= order), key=lambda alias: (len(alias), *alias))

    def interactions(self) -> list[tuple[Effect, ...]]:
        """The two-factor interactions, those that are estimated together in one group."""
        seen: dict[frozenset[Effect], tuple[Effect, ...]] = {}
        for pair in combinations(self.factors, 2):
            group = {pair, *(alias for alias in self.aliases(pair, 2) if len(alias) == 2)}
            seen.setdefault(frozenset(group), tuple(sorted(group, key=self._columns)))
        return list(seen.values())

    def contrast(self, effect: Effect) -> NDArray[np.float64]:
        """The (2^(k - p),) weights with which the responses of the runs give the mean at +1 minus that at -1."""
        signs: NDArray[np.int64] = np.prod(self.levels()[:, self._columns(effect)], axis=1)
        return np.asarray(signs * (2.0 / len(signs)), dtype=np.float64)

    def _effect(self, names: frozenset[str]) -> Effect:
        return tuple(name for name in self.factors if name in names)

    def _columns(self, effect: Effect) -> list[int]:
        return [self.factors.index(name) for name in effect]


@dataclass(frozen=True)
class Estimate:
    """An effect with its error."""

    value: float  # mean over the blocks
    low: float  # 95 % interval by the t distribution over the blocks
    high: float
    blocks: tuple[float, ...]
    sampling_error: float  # standard error of `value` by the drawing of the samples alone


def estimate(responses: NDArray[np.float64], influences: NDArray[np.float64], weights: NDArray[np.float64]) -> Estimate:
    """A weighted sum of the responses (B, R) of each block, its interval over blocks, and the sampling noise in it.

    `influences` (B, R, N) are those of the N samples of each response, in the order of sample indices. Within a block
    all cells start from the same noise, so what it does to all of them cancels in the sum; blocks have noise of their
    own, so the interval over blocks covers it together with that of training (Box, Hunter & Hunter 2005, Chapter 4).
    """
    from scipy.special import stdtrit

    blocks = responses @ weights
    if len(blocks) < 2:
        raise InputError("at least 2 blocks", str(len(blocks)), "add training seeds")
    half_width = float(stdtrit(len(blocks) - 1, 0.975) * blocks.std(ddof=1) / np.sqrt(len(blocks)))
    errors = [standard_error(weights @ influence) for influence in influences]
    mean = float(blocks.mean())
    return Estimate(
        value=mean,
        low=mean - half_width,
        high=mean + half_width,
        blocks=tuple(float(block) for block in blocks),
        sampling_error=float(np.sqrt(np.sum(np.square(errors)))) / len(blocks),
    )
