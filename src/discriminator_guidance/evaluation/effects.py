"""Designs of two-level experiments, what they confound, and the effects they estimate, with intervals.

A factor is at level -1 or +1. The effect of a factor is the mean response at +1 minus that at -1; the interaction of
two is the effect of the product of their levels. A regular fraction runs 2^(k - p) of the 2^k combinations: p factors
take the product of others as their level, and every effect is then estimated together with its aliases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """A regular two-level fraction.

    Args:
        factors: all k names, in the order of the columns.
        base: the k - p factors that take every combination.
        generators: for each other factor those whose levels are multiplied to give its own.
    """

    factors: tuple[str, ...]
    base: tuple[str, ...]
    generators: Mapping[str, tuple[str, ...]]

    def levels(self) -> Levels:
        """The runs of the fraction.

        Returns:
            (2^(k - p), k) of -1 and +1.
        """
        column = {
            name: np.array(values) for name, values in zip(self.base, zip(*self._base_runs(), strict=True), strict=True)
        }
        for name, multiplied in self.generators.items():
            column[name] = np.prod([column[other] for other in multiplied], axis=0)
        return np.stack([column[name] for name in self.factors], axis=1)

    def words(self) -> list[Effect]:
        """The defining relation: the products that are +1 in every run, shortest first.

        Returns:
            2^p - 1 words.
        """
        generated = [frozenset({name, *multiplied}) for name, multiplied in self.generators.items()]
        words = set()
        for size in range(1, len(generated) + 1):
            for chosen in combinations(generated, size):
                word: frozenset[str] = frozenset()
                for generator in chosen:
                    word ^= generator
                words.add(word)
        return sorted((self._effect(word) for word in words), key=lambda word: (len(word), self._places(word)))

    def resolution(self) -> int:
        """The length of the shortest word: at IV no main effect is aliased with another or a two-factor interaction.

        Returns:
            At least 1; k + 1 for a whole factorial.
        """
        return min((len(word) for word in self.words()), default=len(self.factors) + 1)

    def aliases(self, effect: Effect, order: int) -> list[Effect]:
        """What cannot be told from an effect in this fraction.

        Args:
            effect: one factor or several.
            order: longest alias that is listed.

        Returns:
            The other effects of at most that order whose column is the same.
        """
        shared = [self._effect(frozenset(effect) ^ frozenset(word)) for word in self.words()]
        return sorted((alias for alias in shared if len(alias) <= order), key=lambda alias: (len(alias), *alias))

    def chains(self) -> list[tuple[Effect, ...]]:
        """The two-factor interactions, grouped by what is estimated together.

        Returns:
            Each group once, its members in the order of the design.
        """
        seen: dict[frozenset[Effect], tuple[Effect, ...]] = {}
        for pair in combinations(self.factors, 2):
            group = {pair, *(alias for alias in self.aliases(pair, 2) if len(alias) == 2)}
            seen.setdefault(frozenset(group), tuple(sorted(group, key=self._places)))
        return list(seen.values())

    def _base_runs(self) -> list[tuple[int, ...]]:
        return list(product((-1, 1), repeat=len(self.base)))

    def _effect(self, names: frozenset[str]) -> Effect:
        return tuple(name for name in self.factors if name in names)

    def _places(self, effect: Effect) -> list[int]:
        return [self.factors.index(name) for name in effect]


@dataclass(frozen=True)
class Estimate:
    """An effect with what is known of its error.

    Args:
        value: mean over the blocks.
        low: lower end of the 95 % interval by the t distribution over the blocks.
        high: upper end.
        blocks: the effect in each block.
        sampling_error: standard error of `value` by the drawing of the pictures alone.
    """

    value: float
    low: float
    high: float
    blocks: tuple[float, ...]
    sampling_error: float


def contrast(levels: Levels, columns: Sequence[int]) -> NDArray[np.float64]:
    """The weights with which the responses of a balanced design make an effect.

    Args:
        levels: (R, k) of -1 and +1.
        columns: of the factors that are multiplied.

    Returns:
        (R,) weights: sum of weight times response is the mean at +1 minus the mean at -1.

    Raises:
        InputError: the product is not +1 in half of the runs.
    """
    signs: NDArray[np.int64] = np.prod(levels[:, list(columns)], axis=1)
    if signs.sum() != 0:
        raise InputError("a design with both levels equally often", f"a sum of {signs.sum()}", "run every run of it")
    return np.asarray(signs * (2.0 / len(signs)), dtype=np.float64)


def estimate(responses: NDArray[np.float64], influences: NDArray[np.float64], weights: NDArray[np.float64]) -> Estimate:
    """A weighted sum of the responses of each block, its interval over blocks, and the sampling noise in it.

    Within a block all cells start from the same noise, so what it does to all of them cancels in the sum; blocks have
    noise of their own, so the interval over blocks covers it together with that of training.

    Args:
        responses: (B, R), B at least 2 blocks.
        influences: (B, R, N) of the N pictures of each response, in the order of sample indices.
        weights: (R,) a contrast, or +1 and -1 for a difference of two cells.

    Returns:
        The effect.

    Raises:
        InputError: fewer than two blocks.

    Source: Box, Hunter & Hunter 2005, Chapters 4 (blocks) and 5-6 (effects, fractions).
    """
    from scipy.special import stdtrit

    blocks = responses @ weights
    if len(blocks) < 2:
        raise InputError("at least 2 blocks", str(len(blocks)), "add training seeds")
    half_width = stdtrit(len(blocks) - 1, 0.975) * blocks.std(ddof=1) / np.sqrt(len(blocks))
    errors = [standard_error(weights @ influence) for influence in influences]
    mean = float(blocks.mean())
    return Estimate(
        value=mean,
        low=mean - float(half_width),
        high=mean + float(half_width),
        blocks=tuple(float(block) for block in blocks),
        sampling_error=float(np.sqrt(np.sum(np.square(errors)))) / len(blocks),
    )
