"""FLOPs are those of the published networks and of layers counted by hand; memory is that of live tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from discriminator_guidance.planning.blueprints import Blueprints, Pictures
from discriminator_guidance.planning.commands import Command
from discriminator_guidance.planning.tracing import LiveBytes, Traces, traced
from discriminator_guidance.planning.work import Pass

from .profiles import mini, released

SIX = ("d0", "d1", "d2", "d3", "d4", "d5")


@pytest.fixture(scope="module")
def full() -> Traces:
    return Traces(Blueprints(released(), Pictures(32, 3, 10, 50_000, 10_000)))


def test_a_convolution_counted_by_hand():
    with torch.device("meta"):
        layer, x = nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.empty(2, 3, 8, 8)
    one = 2 * 3 * 3 * 3 * 5 * 8 * 8
    assert traced(lambda: layer(x), 2).flops == one
    # The gradient by the weights costs as much again; the one by the pictures is not asked for.
    assert traced(lambda: layer(x).sum().backward(), 2).flops == 2 * one
    inside = x.requires_grad_(True)
    assert traced(lambda: layer(inside).sum().backward(), 2).flops == 3 * one


def test_memory_is_what_is_alive_at_once():
    with torch.device("meta"):
        x = torch.empty(1000)
    live = LiveBytes()
    with torch.no_grad(), live:
        for _ in range(5):
            kept = torch.exp(torch.exp(x))
        del kept
    # Two results of 4,000 bytes, or three while the last is replaced; never all ten.
    assert 8_000 <= live.most <= 12_000
    live = LiveBytes()
    inside = x.requires_grad_(True)
    with live:
        y = inside
        for _ in range(5):
            y = torch.exp(y)
    assert live.most == 20_000  # gradients need them all


def test_published_networks(full):
    assert sum(p.numel() for p in full.score.parameters()) == 55_733_891
    assert sum(p.numel() for p in full.extractor.parameters()) == 47_771_112
    assert sum(p.numel() for p in full.heads["d0"].parameters()) == 2_883_841
    assert full.of(Pass("score")).flops == pytest.approx(42.38e9, rel=1e-3)
    assert full.of(Pass("features")).flops == pytest.approx(12.71e9, rel=1e-3)
    assert full.of(Pass("head", ("d0",))).flops == pytest.approx(0.268e9, rel=0.01)


def test_six_members_share_one_extractor(full):
    one, six = full.of(Pass("guidance", ("d0",))).flops, full.of(Pass("guidance", SIX)).flops
    head = full.of(Pass("head", ("d0",))).flops
    assert six - one == pytest.approx(5 * 2 * head, rel=0.1)  # forward, and the gradient by the features
    # Weights have no gradients, so a convolution costs twice its forward pass; attention has two factors, three times.
    assert 2 < (one - 2 * head) / full.of(Pass("features")).flops < 2.3


def test_a_member_step_trains_the_head_alone(full):
    head, step = full.of(Pass("head", ("d0",))).flops, full.of(Pass("member step", ("d0",))).flops
    assert step - full.of(Pass("features")).flops == pytest.approx(3 * head, rel=0.1)


def test_training_and_conditional_networks_of_a_small_profile():
    traces = Traces(Blueprints(mini(cond=True), Pictures(16, 1, 10, 1438, 359)))
    for step, forward in (("score step", "score"), ("fid step", "fid features")):
        assert traces.of(Pass(step)).flops == pytest.approx(3 * traces.of(Pass(forward)).flops, rel=0.1)
        assert traces.of(Pass(step)).bytes > traces.of(Pass(forward)).bytes
    assert traces.of(Pass("guidance", SIX)).bytes > traces.of(Pass("features")).bytes


def test_heads_of_one_size_are_measured_once(full):
    assert set(full.heads) == {"d0"}  # the released one has the size of Table 2's
    assert full.alike(Pass("guidance", SIX)) == Pass("guidance", ("d0",) * 6)


def test_weights_of_a_run_end_with_its_own(full):
    guided = Command("guided", "d0", passes={Pass("score"): 1, Pass("guidance", ("d0",)): 1})
    assert len(full.weights_of(guided)) == 3
    member = Command("discriminator", "d0", passes={Pass("member step", ("d0",)): 1, Pass("features"): 1})
    assert full.weights_of(member)[-1] == 4 * 2_883_841
    assert full.weights_of(Command("score"))[-1] >= 4 * 55_733_891
    assert full.weights_of(Command("real")) == []
