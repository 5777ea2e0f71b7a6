"""The iteration loop: snapshots, and the line that shows how far it is."""

import re
import time
from contextlib import suppress
from dataclasses import replace
from io import StringIO

import torch
from torch import nn

from discriminator_guidance.core import runtime
from discriminator_guidance.training.loop import Schedule, train

from .memory import Memory

# seed, iterations, batch_size, learning_rate, weight_decay, decay_fraction, gradient_clip, checkpoint_every
SCHEDULE = Schedule(
    iterations=100, batch_size=4, learning_rate=0.05, decay_fraction=0.5, gradient_clip=10.0, checkpoint_every=40
)


def problem():
    torch.manual_seed(0)
    # Dropout draws from torch's own generator, which a resumed process has not advanced.
    network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.1))

    def batch_of(iteration: int):
        return (torch.randn(8, 3, generator=torch.Generator().manual_seed(iteration)),)

    def loss_of(batch):
        (x,) = batch
        return ((network(x) - x.sum(1, keepdim=True)) ** 2).mean(), {"size": 8.0}

    return network, batch_of, loss_of


def test_snapshots_are_the_weights_of_other_iterations_and_change_nothing():
    flat = replace(SCHEDULE, decay_fraction=0.0, iterations=60, ema_decay=0.9)
    trained = train(*problem(), flat, Memory(), None, (20, 100))
    for iterations, weights in {60: trained.network.state_dict(), **trained.snapshots}.items():
        alone = train(*problem(), replace(flat, iterations=iterations), Memory())
        assert torch.equal(alone.network.state_dict()["0.weight"], weights["0.weight"])


def test_the_time_left_follows_from_the_speed_of_this_process(monkeypatch, capsys):
    monkeypatch.setitem(runtime.EVERY_S, False, 0.2)
    with runtime.progress("training", 600, "epochs") as advance:
        for epoch in range(1, 501):  # which a checkpoint had
            advance(to=epoch)
        time.sleep(0.3)
        advance(to=501)
    *_, left = re.findall(r"(\d+) s left", capsys.readouterr().err)
    assert int(left) > 25


def test_what_follows_an_interrupted_line_of_progress_is_on_its_own(monkeypatch):
    terminal = StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    with suppress(ZeroDivisionError), runtime.progress("training", 2, "epochs") as advance:
        advance(1)
        raise ZeroDivisionError
    assert terminal.getvalue().startswith("\rtraining: 1/2 epochs")
    assert terminal.getvalue().endswith(" \n")
