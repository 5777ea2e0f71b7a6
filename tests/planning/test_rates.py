"""Timing: batches grow while time is left, and what was not timed is carried over by its FLOPs."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.planning.rates import GROWTH, Rate, first_size, from_flops, time_pictures
from discriminator_guidance.planning.work import Pass


class Machine:
    """A clock that runs on by what the work costs: a start, and so much for each picture."""

    def __init__(self, first_s: float, call_s: float, picture_s: float) -> None:
        self.now, self.sizes = 0.0, list[int]()
        self._first, self._call, self._picture = first_s, call_s, picture_s

    def run(self, pictures: int) -> None:
        self.now += self._call + pictures * self._picture + (0 if self.sizes else self._first)
        self.sizes.append(pictures)

    def clock(self) -> float:
        return self.now


def test_the_call_that_prepares_does_not_count():
    machine = Machine(first_s=5.0, call_s=0.0, picture_s=0.01)
    rate = time_pictures(machine.run, 4, 64, 1.0, machine.clock)
    assert machine.sizes == [1, 4, 4]
    assert rate.at_once == 4
    assert rate.seconds == pytest.approx(0.01)


def test_batches_grow_to_the_largest_and_repeat_within_the_time():
    machine = Machine(first_s=0.0, call_s=0.01, picture_s=0.001)
    rate = time_pictures(machine.run, 1, 50, 3.0, machine.clock)
    assert machine.sizes[:5] == [1, 1, GROWTH, GROWTH**2, 50]
    assert set(machine.sizes[5:]) == {50}
    assert machine.now <= 3.0
    assert rate.seconds == pytest.approx(0.01 / 50 + 0.001)


def test_a_call_longer_than_the_time_is_made_all_the_same():
    machine = Machine(first_s=0.0, call_s=0.0, picture_s=7.0)
    assert time_pictures(machine.run, 1, 64, 1.0, machine.clock) == Rate(7.0, 1)
    assert machine.sizes == [1, 1, 1]


class Small(Machine):
    """A device with room for so many pictures."""

    def __init__(self, room: int) -> None:
        super().__init__(first_s=0.0, call_s=0.0, picture_s=0.001)
        self._room = room

    def run(self, pictures: int) -> None:
        super().run(pictures)
        if pictures > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("start", "room", "reached", "tried"), [(4, 20, 16, 64), (100, 30, 25, 100)])
def test_a_batch_that_does_not_fit_leaves_the_rate_of_the_largest_that_does(start, room, reached, tried):
    machine = Small(room)
    assert time_pictures(machine.run, start, 512, 1.0, machine.clock) == Rate(pytest.approx(0.001), reached)
    assert max(machine.sizes) == tried
    assert machine.sizes.count(tried) == 1


@pytest.mark.parametrize(("room", "start"), [(0, 1), (0, 4)])
def test_a_device_without_room_for_one_picture_is_no_rate(room, start):
    machine = Small(room)
    with pytest.raises(torch.OutOfMemoryError):
        time_pictures(machine.run, start, 512, 1.0, machine.clock)


def test_first_size_follows_the_cost_of_a_picture():
    assert first_size(42e9, 64) == 1
    assert first_size(1e8, 500) == 20
    assert first_size(1e3, 500) == 500
    assert first_size(0.0, 500) == 500


def test_flops_stand_in_for_what_was_not_timed():
    score, features, head = Pass("score"), Pass("features"), Pass("head", ("d0",))
    flops = {score: 40e9, features: 10e9, head: 1e9}
    timed = {score: Rate(2.0, 4), head: Rate(0.1, 8)}
    rates = from_flops(flops, timed, {score: 100, features: 10, head: 0})
    assert rates[score] == timed[score]
    assert rates[head] == timed[head]
    assert rates[features] == Rate(pytest.approx(0.5), 0)  # at the 20 GFLOP/s of what the profile does most
