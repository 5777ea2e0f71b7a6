"""Ways are timed in turn, with as many images as the seconds allow, and rows are made of medians."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.benchmark.timing import Flops, Row, timed

PEAKS = {"gemm fp64": 1e9}


class Clock:
    """A machine with ways that need so many seconds an image."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, []

    def __call__(self) -> float:
        return self.now

    def way(self, name: str, seconds: float):
        def run(n: int) -> torch.Tensor:
            self.log.append((name, n))
            self.now += n * seconds
            return torch.full((2,), float(len(name)))

        return run

    def timed(self, budget: float, seconds: float, ours: float):
        ways = self.way("baseline", seconds), self.way("ours", ours)
        return timed(Row("row", *ways, "gemm fp64", 1.0, 64, flops=5e8), budget, PEAKS, lambda name: None, self)


def test_in_turn_with_images_for_two_rounds():
    clock = Clock()
    row = clock.timed(100.0, 2.0, 1.0)
    assert clock.log == [("baseline", 1), ("ours", 1), *[("baseline", 16), ("ours", 16)] * 2]
    assert clock.now <= 100.0
    assert (row["reference_s"], row["ours_s"], row["ratio"], row["images"], row["rounds"]) == (32.0, 16.0, 2.0, 16, 2)
    assert row["flops"] == 16 * 5e8
    assert row["percent_of_peak"] == pytest.approx(50.0)
    assert row["max_abs_difference"] == 4.0


@pytest.mark.parametrize("seconds", [30.0, 70.0, 1000.0])
def test_a_machine_that_is_too_slow_gets_two_rounds_of_one_image_or_one(seconds):
    row = Clock().timed(50.0, seconds, seconds)
    assert row["rounds"] == (2 if 2 * seconds < 100.0 else 1)
    assert row["images"] == 1


def test_flops_of_gradients_by_the_input_are_counted():
    layer = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False).requires_grad_(False)
    x = torch.ones(2, 3, 8, 8, requires_grad=True)
    with Flops() as counter:
        torch.autograd.grad(layer(x).sum(), x)
    assert counter.total == 2 * (2 * 2 * 3 * 3 * 3 * 5 * 8 * 8)  # forward and backward
