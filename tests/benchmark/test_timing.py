"""Ways are timed in turn, without the first call of each round and without what prepares them."""

from __future__ import annotations

import torch

from discriminator_guidance.benchmark.timing import Way, interleaved


class Clock:
    def __init__(self) -> None:
        self.now, self.log = 0.0, []

    def __call__(self) -> float:
        return self.now

    def way(self, name: str, *seconds: float) -> Way:
        left = list(seconds)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return torch.zeros(1)

        def prepare():
            self.now += 100.0

        return Way(run, prepare)


def test_in_turn_twice_of_which_the_second_call_counts():
    clock = Clock()
    ways = {"a": clock.way("a", 50.0, 1.0, 50.0, 3.0, 50.0, 2.0), "b": clock.way("b", 4.0)}
    timed = interleaved(ways, 500.0, 3, clock=clock)
    assert "".join(clock.log) == "aabb" * 3  # more than 500 s, less than 1,000
    assert timed["a"].seconds == [1.0, 3.0, 2.0]
    assert timed["a"].median == 2.0
    assert timed["a"].spread == (1.0, 3.0)
    assert timed["b"].seconds == [4.0] * 3


def test_rounds_go_on_while_there_is_time():
    clock = Clock()
    assert len(interleaved({"a": clock.way("a", 1.0)}, 500.0, 1, 99, clock)["a"].seconds) == 5
    assert len(interleaved({"a": clock.way("a", 1.0)}, 500.0, 1, 2, clock)["a"].seconds) == 2


def test_where_rounds_take_long_two_are_enough():
    clock = Clock()
    assert len(interleaved({"a": clock.way("a", 1.0)}, 60.0, 3, 99, clock)["a"].seconds) == 2
