"""Training of a head on known features: it finds the optimal classifier."""

import math
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from discriminator_guidance.core.errors import ConfigError, DivergenceError
from discriminator_guidance.core.runtime import Compute
from discriminator_guidance.core.settings import DiscriminatorSettings
from discriminator_guidance.training import data
from discriminator_guidance.training.data import Pairs, Split
from discriminator_guidance.training.discriminator import fit, used_row

from .memory import Memory

CPU = Compute(torch.device("cpu"), "float32")
SETTINGS = DiscriminatorSettings(
    epochs=6, learning_rate=0.05, weight_decay=0.0, t_min=1e-3, batch_size=64, checkpoint="last", checkpoint_every=2,
    optimizer="adam", patience=None, ema_decay=None, grid_times=4, grid_times_per_image=2,
)  # fmt: skip


class Head(nn.Module):
    """One logit from the mean of the image, with dropout, whose masks a resumed run has to repeat."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.dropout = nn.Linear(1, 1), nn.Dropout(dropout)

    def forward(self, features, t):
        return self.dropout(self.linear(features))


def brightness(x_vp, t):
    return x_vp.flatten(1).mean(1, keepdim=True)


def make_pairs(real: int = 160, fake: int = 90) -> Pairs:
    """200 bright images and 200 dark ones, all of them in each part of the split."""
    images = (torch.full((200, 1, 2, 2), grey, dtype=torch.uint8) for grey in (real, fake))
    rows = np.arange(400)
    return Pairs(*images, torch.cat([torch.ones(200), torch.zeros(200)]), None, Split(rows, rows, rows))


def labelled_pairs() -> Pairs:
    """Images that show their classes."""
    classes = torch.arange(400) % 10
    images = (25 * classes).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    return replace(make_pairs(), real=images[:200], fake=images[200:], classes=classes)


def run(memory=None, pairs=None, report=None, head=None, features=brightness, **changes):
    """The weights after the last step, those that are used, and the curve."""
    pairs, settings, memory = pairs or make_pairs(), replace(SETTINGS, **changes), memory or Memory()
    network, last, history, _ = fit(head or Head(), features, pairs, settings, CPU, memory, report)
    return last, network.state_dict(), history


def test_smoothing_keeps_the_logits_of_training_small():
    sharp, smooth = (run(epochs=20, label_smoothing=smoothing)[0]["linear.weight"] for smoothing in (0.0, 0.3))
    assert 0 < smooth.item() < sharp.item()


@pytest.mark.parametrize("checkpoint", ["last", "best", 2])
def test_the_weights_of_the_chosen_epoch_are_used_and_the_last_ones_known(checkpoint):
    last, used, history = run(epochs=5, checkpoint=checkpoint, learning_rate=0.5)
    best = min(history, key=lambda row: row["validation_loss"])
    wanted = {"last": 5, "best": history.index(best) + 1, 2: 2}[checkpoint]
    assert used_row(history, checkpoint) == wanted
    short, _, _ = run(epochs=wanted, learning_rate=0.5)
    assert torch.equal(used["linear.weight"], short["linear.weight"])
    assert torch.equal(used["linear.weight"], last["linear.weight"]) == (wanted == 5)


def test_training_in_steps_ends_without_progress():
    _, _, history = run(epochs=None, steps=400, row_steps=10, patience=2, checkpoint="best", learning_rate=0.5)
    losses = [row["validation_loss"] for row in history]
    assert len(losses) == int(np.argmin(losses)) + 3 < 40


def test_every_epoch_shows_each_image_once_and_only_reshuffling_changes_the_batches(monkeypatch):
    original, seen = data.draw_noised, []

    def spy(images, *arguments):
        seen.append((127.5 * (images[:, 0, 0, 0] + 1)).round().int().tolist())
        return original(images, *arguments)

    monkeypatch.setattr(data, "draw_noised", spy)
    pairs = make_pairs()
    shown = torch.arange(200).to(torch.uint8)  # an image shows its number
    images = shown.view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    pairs, shown = replace(pairs, real=images, fake=images), shown.repeat(2)
    run(pairs=pairs, epochs=2, reshuffle=False)
    assert seen[:7] == seen[7:]
    run(pairs=pairs, epochs=2)
    assert seen[14:21] != seen[21:28]
    for start in (0, 7, 14, 21):
        assert sorted(chain(*seen[start : start + 7])) == sorted(shown.tolist())
    run(pairs=pairs, epochs=2, bagging=0.5)
    assert [len(batch) for batch in seen[28:]] == [64, 64, 64, 8] * 2
    assert sorted(chain(*seen[28:32])) == sorted(chain(*seen[32:]))  # the same draw in each epoch
    run(pairs=replace(pairs, real=images // 2, fake=images // 2 + 100), epochs=None, steps=5)
    assert [sum(number >= 100 for number in batch) for batch in seen[36:]] == [32] * 5
    with pytest.raises(ConfigError, match=r"bagging is 0\.001"):
        run(epochs=None, bagging=0.001)


@pytest.mark.parametrize(
    "option",
    [
        {"checkpoint": "last"},
        {"ema_decay": 0.9, "decay_fraction": 0.5},
        {"flip": True, "permute_labels": True},
        {"epochs": None, "steps": 42, "row_steps": 7, "patience": 2},
    ],
)
def test_a_killed_run_resumes_to_the_same_bytes_and_curve(option):
    changes = {"checkpoint": "best", **option}
    head, kept, history = run(head=Head(0.2), **changes)
    memory, reported = Memory(stop_after=1), []
    with pytest.raises(KeyboardInterrupt):
        run(memory, head=Head(0.2), **changes)
    assert memory.saved == [14]
    memory.stop_after = None
    torch.manual_seed(12345)
    resumed, resumed_kept, resumed_history = run(
        memory, None, lambda done, row: reported.append({"iteration": done, **row}), Head(0.2), **changes
    )
    assert resumed_history == history == reported
    assert torch.equal(head["linear.weight"], resumed["linear.weight"])
    assert torch.equal(kept["linear.weight"], resumed_kept["linear.weight"])


def test_the_average_is_kept_and_the_head_goes_on_by_itself():
    """Oracle: average_i = d average + (1 - d) weights_i with d = min(decay, (1 + i) / (10 + i)); a step an epoch."""
    memory, expected = Memory(), Head().linear.weight.detach()
    head, kept, _ = run(memory, batch_size=400, ema_decay=0.3, checkpoint_every=1)
    for step, state in enumerate(memory.states):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * state["network"]["linear.weight"]
        assert torch.allclose(state["average"]["linear.weight"], expected, atol=1e-6)
    assert torch.allclose(kept["linear.weight"], expected, atol=1e-6)
    raw = run(batch_size=400)[0]["linear.weight"]
    assert torch.equal(head["linear.weight"], raw)
    assert not torch.allclose(raw, expected, atol=1e-3)


def test_the_learning_rate_falls_to_zero_over_the_last_share_of_all_steps():
    memory = Memory()
    run(memory, decay_fraction=0.5, checkpoint_every=1)  # 42 steps, 7 in an epoch, of which the last is seen
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in memory.states]
    assert rates == pytest.approx([0.05 * min(1, left / 21) for left in (36, 29, 22, 15, 8, 1)])


@pytest.mark.parametrize(("factor", "what"), [(float("nan"), "training loss"), (1e30, "gradient norm")])
def test_divergence_names_the_step_and_keeps_weights_and_checkpoint(factor, what):
    memory, head, seen = Memory(), Head(), []

    def broken(x_vp, t):
        seen.append(len(t))  # the validation grid has two batches
        return brightness(x_vp, t) * (factor if len(seen) > 2 + 3 * 7 + 1 else 1)

    with pytest.raises(DivergenceError, match=rf"the {what} is (nan|inf) at iteration 22;"):
        run(memory, head=head, features=broken)
    assert memory.saved == [14]
    assert head.linear.weight.isfinite().all()


def test_a_validation_loss_that_is_not_finite_stops_the_training():
    class Broken(Head):
        def forward(self, features, t):
            return super().forward(features, t) * (1.0 if self.training else math.nan)

    with pytest.raises(DivergenceError, match="the validation loss is nan"):
        run(head=Broken())


def test_a_conditional_head_is_given_the_class_of_each_image():
    compared = []

    class Conditional(Head):
        def forward(self, features, t, classes):
            shown = ((features[:, 0] + 1) * 127.5 / 25).round()
            compared.append(torch.stack([shown, classes.float()]))
            return super().forward(features, t)

    run(pairs=labelled_pairs(), head=Conditional(), epochs=1, t_min=0.001)
    shown, classes = torch.cat(compared, 1)
    near = (shown - classes).abs() < 0.5
    assert near.float().mean() > 0.3  # noise hides the others; of wrong classes a tenth would fit
