"""The work of a stage, piece by piece: how much is done, and how much of it is kept for the next attempt."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Plan:
    """Where a stage does a piece of its work, where it keeps what it did, and after which share of all pieces.

    Args:
        work: module and function.
        keep: module or class, and function.
        share: in the tiny study.
    """

    work: tuple[str, str]
    keep: tuple[str, str]
    share: Fraction


BATCHES = ("training.loop", "accumulate_gradients")
SHARDS = ("stages.sampling", "draw_shard")
CHECKPOINT = ("artifacts.partial:PartialWork", "save")
SHARD = ("artifacts.partial:PartialWork", "save_shard")
HALF = Fraction(1, 2)
PLANS = {
    "score": Plan(BATCHES, CHECKPOINT, HALF),  # 20 of 40 iterations
    "extractor": Plan(BATCHES, CHECKPOINT, HALF),
    "fid_network": Plan(BATCHES, CHECKPOINT, HALF),
    "discriminator": Plan(("training.discriminator", "accumulate_gradients"), CHECKPOINT, HALF),  # 2 of 4 epochs
    "fake": Plan(SHARDS, SHARD, Fraction(1, 3)),
    "guided": Plan(SHARDS, SHARD, HALF),
    "evaluation": Plan(  # one of four picture sets
        ("stages.features", "extract_features"), ("stages.features", "cached_rows"), Fraction(1, 4)
    ),
}


class Pieces:
    """How many pieces of work one attempt at a stage has done, in whatever fork, and how many are kept of all attempts.

    That a kept piece is not done again is what is to be tested: who counts believes it.

    Args:
        word: the stage.
        put: replaces an attribute, as setattr does.
    """

    def __init__(self, word: str, put: Callable[[Any, str, Any], None] = setattr) -> None:
        self._shared = memoryview(mmap.mmap(-1, 16)).cast("Q")
        self._kept_before = 0
        self.on_kept: Callable[[], object] = lambda: None
        plan = PLANS[word]
        self.share = plan.share

        def counted(work: Callable[..., Any]) -> Callable[..., Any]:
            def does(*given: Any, **named: Any) -> Any:
                self._shared[0] += 1
                return work(*given, **named)

            return does

        def noted(keep: Callable[..., Any]) -> Callable[..., Any]:
            def keeps(*given: Any, **named: Any) -> Any:
                kept = keep(*given, **named)
                self._shared[1] = self._kept_before + self.done
                if self.done:
                    self.on_kept()
                return kept

            return keeps

        for (place, name), around in ((plan.work, counted), (plan.keep, noted)):
            holder = resolve_name(f"discriminator_guidance.{place}")
            put(holder, name, around(getattr(holder, name)))

    def begin(self) -> None:
        """Start to count for another attempt."""
        self._shared[0], self._kept_before = 0, self.kept

    def forget(self) -> None:
        """Nothing is kept any more."""
        self._shared[1] = 0

    @property
    def done(self) -> int:
        """Pieces that this attempt has done, or begun."""
        return self._shared[0]

    @property
    def kept(self) -> int:
        """Pieces that are kept, of this attempt and those before."""
        return self._shared[1]

    @property
    def kept_before(self) -> int:
        """Pieces that were kept when this attempt began."""
        return self._kept_before
