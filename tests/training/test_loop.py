"""The iteration loop: schedule, averaging, resumption, divergence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from discriminator_guidance import ranks
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.training.loop import Schedule, accumulate_gradients, own_part, train

SCHEDULE = Schedule(
    seed=0,
    iterations=100,
    batch_size=4,
    learning_rate=0.05,
    weight_decay=0.0,
    decay_fraction=0.5,
    gradient_clip=10.0,
    checkpoint_every=40,
)


class Memory:
    """Checkpoints in memory, by value."""

    def __init__(self, stop_after: int | None = None):
        self.state, self.saved, self.stop_after = None, [], stop_after

    def load(self):
        return copy.deepcopy(self.state)

    def save(self, state):
        self.state = copy.deepcopy(state)
        self.saved.append(state["iteration"])
        if self.stop_after == len(self.saved):
            raise KeyboardInterrupt


def problem():
    torch.manual_seed(0)
    # Dropout draws from torch's own generator, which a resumed process has not advanced.
    network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.1))

    def batch_of(iteration: int):
        return (torch.randn(8, 3, generator=torch.Generator().manual_seed(iteration)),)

    def loss_of(batch):
        (x,) = batch
        loss = ((network(x) - x.sum(1, keepdim=True)) ** 2).mean()
        return loss, {"size": 8.0}

    return network, batch_of, loss_of


def at_once(size=8):
    return BatchSize(size, lambda line: None)


def run(memory, ema_decay=None, on_iterations=lambda n: None):
    network, batch_of, loss_of = problem()
    return train(
        network, batch_of, loss_of, SCHEDULE, at_once(), memory, on_iterations, lambda step, row: None, ema_decay
    )


def test_loss_falls_and_the_curve_covers_every_iteration():
    _, history = run(Memory())
    assert [row["iteration"] for row in history] == [20, 40, 60, 80, 100]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[0]["size"] == 8.0


def test_a_resumed_run_goes_on_with_the_smaller_passes_and_their_record(monkeypatch):
    from discriminator_guidance.training import loop

    def exhausted(loss_of, batch, size, weight):
        if size > 4:
            raise torch.OutOfMemoryError("not enough")
        return accumulate_gradients(loss_of, batch, size, weight)

    memory = Memory(stop_after=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "accumulate_gradients", exhausted)
        with pytest.raises(KeyboardInterrupt):
            run(memory)
    network, batch_of, loss_of = problem()
    memory.stop_after, passes = None, at_once()
    train(network, batch_of, loss_of, SCHEDULE, passes, memory, lambda n: None, lambda step, row: None)
    assert (passes.size, passes.halved) == (4, (4,))


def test_rate_is_flat_then_falls_linearly():
    rates = [SCHEDULE.rate(i) for i in (0, 49, 50, 75, 99)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.02])


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_an_interrupted_run_ends_in_the_same_bytes(ema_decay):
    whole, history = run(Memory(), ema_decay)
    memory = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        run(memory, ema_decay)
    torch.manual_seed(12345)
    memory.stop_after = None
    done = []
    resumed, resumed_history = run(memory, ema_decay, done.append)
    assert sum(done) == 100
    assert resumed_history == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_the_average_lags_behind_the_network_and_is_what_is_returned():
    network, batch_of, loss_of = problem()
    averaged, _ = train(
        network, batch_of, loss_of, SCHEDULE, at_once(), Memory(), lambda n: None, lambda s, r: None, 0.99
    )
    assert averaged is not network
    assert not torch.equal(averaged[0].weight, network[0].weight)
    assert not averaged.training


def test_a_loss_that_is_not_finite_stops_with_the_iteration():
    network = nn.Linear(1, 1)

    def batch_of(iteration):
        return (torch.full((1, 1), float("nan") if iteration == 41 else 1.0),)

    def loss_of(batch):
        return network(batch[0]).sum(), {}

    memory = Memory()
    with pytest.raises(DivergenceError, match="nan at iteration 41, row 0 of its batch"):
        train(network, batch_of, loss_of, SCHEDULE, at_once(), memory, lambda n: None, lambda s, r: None)
    assert memory.saved == [40]


def test_a_gradient_that_is_not_finite_is_never_stepped_along():
    network = nn.Linear(1, 1)
    memory = Memory()

    def loss_of(batch):
        loss = network(batch[0]).sum()
        if batch[0].item() == 79:  # the last iteration before the checkpoint at 80
            loss = loss + torch.sqrt((network.weight - network.weight.detach()).sum())  # 0, with an infinite slope
        return loss, {}

    with pytest.raises(DivergenceError, match=r"finite gradients; got a norm of (inf|nan) at iteration 79"):
        train(
            network, lambda i: (torch.full((1, 1), float(i)),), loss_of, SCHEDULE, at_once(), memory,
            lambda n: None, lambda s, r: None,
        )  # fmt: skip
    assert memory.saved == [40]
    assert network.weight.isfinite().all()


def test_gradients_of_parts_add_up_to_those_of_the_batch():
    network = nn.Linear(3, 1)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    y = x.square().sum(1, keepdim=True)

    def loss_of(batch):
        error = (network(batch[0]) - batch[1]) ** 2
        return error.mean(), {"largest target": batch[1].mean().item()}

    results = []
    for size in (7, 3, 1):
        network.zero_grad()
        row = accumulate_gradients(loss_of, (x, y), size)
        results.append((network.weight.grad.clone(), row))
    for gradient, row in results[1:]:
        assert torch.allclose(gradient, results[0][0], rtol=1e-5)
        assert row == pytest.approx(results[0][1], rel=1e-5)


@pytest.mark.parametrize("size", [2, 3, 9])  # nine ranks for seven rows: some have none
def test_parts_of_ranks_add_up_to_the_gradients_of_the_batch(size, monkeypatch):
    network = nn.Linear(3, 1)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))

    def loss_of(batch):
        return (network(batch[0]) ** 2).mean(), {"mean": batch[0].mean().item()}

    assert own_part(7) == (slice(0, 7), 1.0)
    whole = accumulate_gradients(loss_of, (x,), 7)
    expected = network.weight.grad.clone()
    total, summed = dict.fromkeys(whole, 0.0), torch.zeros_like(expected)
    for rank in range(size):
        monkeypatch.setattr(ranks, "_crew", ranks._Crew(rank, size, rank))
        network.zero_grad()
        part, weight = own_part(7)
        row = accumulate_gradients(loss_of, (x[part],), 2, weight)
        assert network.weight.grad is not None, "a rank without rows has no gradient to add"
        summed += network.weight.grad
        total = {key: value + row[key] for key, value in total.items()}
    assert torch.allclose(summed, expected, rtol=1e-5)
    assert total == pytest.approx(whole, rel=1e-5)
