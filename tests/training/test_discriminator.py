"""Training of a head on known features: it finds the optimal classifier."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from discriminator_guidance.diffusion.vp_time import importance_times, marginal_mean, marginal_std
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.discriminator import MemberSettings, Trainee, train_discriminator
from discriminator_guidance.training.grid import FEATURE_BATCH, grid_features
from discriminator_guidance.training.pairs import scaled

CPU = Compute(torch.device("cpu"), "float32")
ROWS = np.arange(400)


class Memory:
    """Checkpoints in memory."""

    def __init__(self):
        self.state, self.saves = None, 0

    def load(self):
        return self.state

    def save(self, state):
        self.state, self.saves = deepcopy(state), self.saves + 1


class Head(nn.Module):
    """One logit from the mean of the picture."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(1, 1)

    def forward(self, features, t):
        return self.linear(features)


def features(x_vp, t):
    return x_vp.flatten(1).mean(1, keepdim=True)


def pictures(real: int = 160, fake: int = 90):
    images = torch.cat([torch.full((200, 1, 2, 2), real), torch.full((200, 1, 2, 2), fake)]).to(torch.uint8)
    return images, torch.cat([torch.ones(200), torch.zeros(200)])


def settings(**changes) -> MemberSettings:
    base = {
        "seed": 0,
        "epochs": 6,
        "learning_rate": 0.05,
        "weight_decay": 0.0,
        "t_min": 1e-3,
        "batch_size": 64,
        "importance_sampling": True,
        "reshuffle": True,
        "flip": False,
        "label_smoothing": 0.0,
        "checkpoint": "last",
        "checkpoint_every": 2,
    }
    told = base | changes
    return MemberSettings(**({"draws": told["seed"]} | told))


def grid_batches() -> BatchSize:
    return BatchSize(FEATURE_BATCH, lambda line: None)


def run(told: MemberSettings, memory=None, images_labels=None, at_once=None):
    images, labels = images_labels or pictures()
    grid = grid_features(features, images, labels, None, ROWS, 4, 2, 0, grid_batches())
    head, rows = Head(), []
    kept, history = train_discriminator(
        features,
        head,
        images,
        labels,
        None,
        ROWS,
        grid,
        told,
        CPU,
        at_once or BatchSize(told.batch_size, lambda line: None),
        memory or Memory(),
        rows.append,
        lambda s, r: None,
    )
    assert set(kept) == set(head.state_dict())
    run.kept = kept
    return head, history, grid


def run_beside(told: MemberSettings, others: list[Trainee], memory=None, images_labels=None, heads_features=features):
    """Train a head beside others on the same batches."""
    images, labels = images_labels or pictures()
    grid = grid_features(heads_features, images, labels, None, ROWS, 4, 2, 0, grid_batches())
    head, at_once = Head(), BatchSize(told.batch_size, lambda line: None)
    _, history = train_discriminator(
        heads_features, head, images, labels, None, ROWS, grid, told, CPU, at_once, memory or Memory(),
        lambda n: None, lambda s, r: None, others,
    )  # fmt: skip
    return head, history


def trainee(told: MemberSettings, memory=None, head=None) -> Trainee:
    return Trainee(head or Head(), told, memory or Memory(), lambda n: None, lambda s, r: None)


def test_it_learns_which_pictures_are_brighter():
    head, history, _ = run(settings())
    assert len(history) == 6
    assert history[-1]["validation_loss"] < history[0]["validation_loss"] < 0.75
    assert history[-1]["validation_accuracy"] > 0.6
    assert head.linear.weight.item() > 0


def test_swapping_the_labels_swaps_the_sign():
    head, _, _ = run(settings(), images_labels=pictures(real=90, fake=160))
    assert head.linear.weight.item() < 0


@pytest.mark.parametrize("checkpoint", ["best", 2])
def test_the_weights_of_the_chosen_epoch_are_kept_and_training_goes_on(checkpoint):
    head, history, _ = run(settings(epochs=5, checkpoint=checkpoint, learning_rate=0.5))
    best = min(history, key=lambda row: row["validation_loss"])
    wanted = int(best["epoch"]) if checkpoint == "best" else checkpoint
    kept = run.kept["linear.weight"]
    short, _, _ = run(settings(epochs=wanted, learning_rate=0.5))
    assert torch.equal(kept, short.linear.weight)
    assert len(history) == 5
    assert wanted == 5 or not torch.equal(kept, head.linear.weight)


def test_smoothed_targets_keep_logits_small():
    sharp, _, _ = run(settings(epochs=20))
    smooth, _, _ = run(settings(epochs=20, label_smoothing=0.3))
    assert 0 < smooth.linear.weight.item() < sharp.linear.weight.item()


def test_half_batches_add_up_to_the_whole_batch(monkeypatch):
    whole, history, _ = run(settings(epochs=2))
    from discriminator_guidance.training import discriminator

    original, calls = discriminator.accumulate_gradients, []

    def exhausted(loss_of, batch, size, weight):
        calls.append(size)
        if size > 20:
            raise torch.OutOfMemoryError("not enough")
        return original(loss_of, batch, size, weight)

    memory, others = Memory(), Memory()
    with monkeypatch.context() as patch:
        patch.setattr(discriminator, "accumulate_gradients", exhausted)
        parts, parts_history, _ = run(settings(epochs=2), memory)
        run_beside(settings(epochs=2, draws=5), [trainee(settings(epochs=2, seed=1, draws=5), others)])
    assert calls[:3] == [64, 32, 16]
    assert set(calls[3:14]) == {16}
    for kept in (memory, others):  # of a run that goes on from there
        at_once = BatchSize(64, lambda line: None)
        run(settings(epochs=3), kept, at_once=at_once)
        assert (at_once.size, at_once.halved) == (16, (32, 16))
    assert parts.linear.weight.item() == pytest.approx(whole.linear.weight.item(), rel=1e-4)
    for one, two in zip(history, parts_history, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_without_reshuffling_the_batches_of_the_first_epoch_return(monkeypatch):
    seen: list[list[int]] = []
    from discriminator_guidance.training import discriminator

    original = discriminator.draw_noised

    def spy(images, labels, *rest):
        seen.append(labels.int().tolist())
        return original(images, labels, *rest)

    monkeypatch.setattr(discriminator, "draw_noised", spy)
    run(settings(epochs=2, reshuffle=False))
    assert seen[:7] == seen[7:]
    seen.clear()
    run(settings(epochs=2, reshuffle=True))
    assert seen[:7] != seen[7:]


def test_resumption_repeats_the_undisturbed_run():
    whole, history, _ = run(settings())
    memory = Memory()
    run(settings(epochs=4), memory)  # the state after 4 of 6 epochs
    resumed, resumed_history, _ = run(settings(), memory)
    assert resumed_history == history
    assert torch.equal(whole.linear.weight, resumed.linear.weight)


def test_divergence_names_the_epoch_and_keeps_the_last_checkpoint(monkeypatch):
    from discriminator_guidance.training import discriminator

    original, batches = discriminator.draw_noised, 0

    def broken_from_the_fourth_epoch(images, labels, *rest):
        nonlocal batches
        batches += 1
        batch = original(images, labels, *rest)
        return batch if batches <= 3 * 7 else replace(batch, x_vp=batch.x_vp * float("nan"))

    monkeypatch.setattr(discriminator, "draw_noised", broken_from_the_fourth_epoch)
    memory = Memory()
    with pytest.raises(DivergenceError, match=r"training loss; got nan in epoch 4, batch 1: picture \d+ at VP time"):
        run(settings(), memory)
    assert memory.saves == 1  # after the second epoch


def test_one_picture_that_is_not_finite_is_named_with_its_time(monkeypatch):
    from discriminator_guidance.training import discriminator

    original, drawn = discriminator.draw_noised, []

    def broken(images, labels, *rest):
        batch = original(images, labels, *rest)
        spoilt = batch.x_vp.clone()
        if len(drawn) == 2:
            spoilt[5] = torch.inf
        drawn.append(batch)
        return replace(batch, x_vp=spoilt)

    monkeypatch.setattr(discriminator, "draw_noised", broken)
    with pytest.raises(DivergenceError, match=r"(nan|inf) in epoch 1, batch 3: picture \d+ at VP time") as caught:
        run(settings())
    assert f"t = {float(drawn[2].t[5]):.4g};" in str(caught.value)


def test_a_gradient_that_is_not_finite_spoils_neither_weights_nor_checkpoint(monkeypatch):
    from discriminator_guidance.training import discriminator

    original, calls = discriminator.accumulate_gradients, 0

    def broken(*given):
        nonlocal calls
        row = original(*given)
        calls += 1
        return row

    def infinite(head):
        return [torch.tensor([torch.inf])] if calls == 3 * 7 + 2 else original_gradients(head)

    original_gradients = discriminator.gradients
    monkeypatch.setattr(discriminator, "accumulate_gradients", broken)
    monkeypatch.setattr(discriminator, "gradients", infinite)
    memory = Memory()
    with pytest.raises(DivergenceError, match="a finite gradient norm; got inf in epoch 4, batch 2"):
        run(settings(), memory)
    assert memory.saves == 1


def test_a_validation_loss_that_is_not_finite_stops_with_the_epoch(monkeypatch):
    from discriminator_guidance.training import discriminator

    original, calls = discriminator.grid_logits, 0

    def broken_in_the_third_epoch(head, grid, compute):
        nonlocal calls
        calls += 1
        return original(head, grid, compute) * (float("nan") if calls == 3 else 1)

    monkeypatch.setattr(discriminator, "grid_logits", broken_in_the_third_epoch)
    memory = Memory()
    with pytest.raises(DivergenceError, match="a finite validation loss; got nan in epoch 3"):
        run(settings(checkpoint="best"), memory)
    assert memory.saves == 1


def test_smoothing_moves_the_targets_of_training_and_not_those_of_validation(monkeypatch):
    from discriminator_guidance.training import discriminator

    original, targets = discriminator.binary_cross_entropy, []

    def spy(logits, target):
        targets.append(target)
        return original(logits, target)

    monkeypatch.setattr(discriminator, "binary_cross_entropy", spy)
    run(settings(epochs=1, label_smoothing=0.2))
    *training, validation = targets
    assert sorted(torch.cat(training).tolist()) == pytest.approx([0.2] * 200 + [0.8] * 200)
    assert set(validation.tolist()) == {0.0, 1.0}


def test_a_conditional_head_is_given_the_class_of_each_picture(monkeypatch):
    from discriminator_guidance.training import discriminator

    original, drawn, given = discriminator.draw_noised, [], []

    def spy(images, *rest):
        drawn.extend(images[:, 0, 0, 0].tolist())
        return original(images, *rest)

    class Conditional(Head):
        def forward(self, features, t, classes):
            if self.training:
                given.extend(classes.tolist())
            return super().forward(features, t)

    monkeypatch.setattr(discriminator, "draw_noised", spy)
    _, labels = pictures()
    classes = torch.arange(400) % 10
    images = classes.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)  # a picture shows its class
    grid = grid_features(features, images, labels, classes, ROWS, 4, 2, 0, grid_batches())
    assert grid.classes.tolist() == classes[torch.from_numpy(grid.image)].tolist()
    at_once = BatchSize(20, lambda line: None)
    train_discriminator(
        features, Conditional(), images, labels, classes, ROWS, grid, settings(epochs=1), CPU, at_once, Memory(),
        lambda n: None, lambda s, r: None,
    )  # fmt: skip
    assert len(given) == 400
    assert given == drawn


def test_heads_of_one_pass_come_out_as_each_alone():
    told = [
        settings(draws=5),
        settings(draws=5, epochs=3, learning_rate=0.2, checkpoint="best", seed=1),
        settings(draws=5, epochs=8, weight_decay=0.1, label_smoothing=0.2),
    ]
    alone = [run(each)[:2] for each in told]
    memories = [Memory(), Memory()]
    others = [trainee(each, memory) for each, memory in zip(told[1:], memories, strict=True)]
    head, history = run_beside(told[0], others)
    assert history == alone[0][1]
    assert torch.equal(head.linear.weight, alone[0][0].linear.weight)
    assert memories[0].state["history"] == alone[1][1]
    assert torch.equal(others[0].head.linear.weight, alone[1][0].linear.weight)
    assert memories[1].state["history"] == alone[2][1][:6]  # as far as the first one went
    later, later_history, _ = run(told[2], memories[1])
    assert later_history == alone[2][1]
    assert torch.equal(later.linear.weight, alone[2][0].linear.weight)


def test_a_head_that_is_behind_or_ahead_takes_no_batch_of_another_epoch():
    told, ahead, behind = settings(draws=5), Memory(), Memory()
    run(settings(draws=5, epochs=4), ahead)
    own = Memory()
    run(settings(draws=5, epochs=2), own)
    others = [trainee(told, ahead), trainee(told, behind)]
    _, history = run_beside(told, others, own)
    assert ahead.state["history"] == history == run(told)[1]
    assert behind.state is None


def test_one_that_diverges_leaves_the_others_alone(monkeypatch):
    from discriminator_guidance.training import discriminator

    told, memories = settings(draws=5), [Memory(), Memory()]
    spoilt, whole = trainee(told, memories[0], Head()), trainee(told, memories[1])
    original, calls = discriminator.gradients, 0

    def infinite(head):
        nonlocal calls
        calls += head is spoilt.head
        return [torch.tensor([torch.inf])] if head is spoilt.head and calls == 3 * 7 + 2 else original(head)

    monkeypatch.setattr(discriminator, "gradients", infinite)
    _, history = run_beside(told, [spoilt, whole])
    assert calls == 3 * 7 + 2  # it is not asked again
    assert len(memories[0].state["history"]) == 2  # its last checkpoint
    assert memories[1].state["history"] == history == run(told)[1]


def test_the_extractor_sees_each_batch_once_whoever_shares_it():
    seen = []

    def counted(x_vp, t):
        seen.append(len(x_vp))
        return features(x_vp, t)

    told = settings(draws=5, epochs=2)
    run_beside(told, [], heads_features=counted)
    alone = [*seen]
    seen.clear()
    run_beside(told, [trainee(settings(draws=5, epochs=2, seed=n)) for n in range(3)], heads_features=counted)
    assert seen == alone


def test_heads_of_other_batches_are_refused():
    for changes in ({"draws": 6}, {"t_min": 0.5}, {"reshuffle": False}, {"flip": True}, {"importance_sampling": False}):
        with pytest.raises(AssertionError, match="same batches"):
            run_beside(settings(draws=5), [trainee(settings(**{"draws": 5} | changes))])


def test_shared_batches_have_the_distribution_of_a_members_own(monkeypatch):
    """Pictures, labels, times and noise: each epoch all pictures once, times by the same law, noise normal."""
    from discriminator_guidance.training import discriminator

    images = torch.arange(400, dtype=torch.int64).view(400, 1, 1, 1).expand(400, 1, 4, 4)
    images = torch.stack([images[..., 0, 0] // 20, images[..., 0, 0] % 20], -1)[..., None].to(torch.uint8)  # its number
    labels = (torch.arange(400) % 3 == 0).float()
    original, seen = discriminator.draw_noised, []

    def spy(chosen, targets, *rest):
        batch = original(chosen, targets, *rest)
        seen.append((chosen[:, 0, 0, 0].long() * 20 + chosen[:, 0, 1, 0].long(), chosen, batch))
        return batch

    monkeypatch.setattr(discriminator, "draw_noised", spy)
    epochs, drawn = 8, {}
    for name, draws in [("shared", 5), ("own", 0)]:
        run_beside(
            settings(epochs=epochs, draws=draws), [trainee(settings(epochs=epochs, draws=draws, seed=3))],
            images_labels=(images, labels),
        )  # fmt: skip
        numbers = torch.cat([row for row, _, _ in seen])
        batches = [batch for _, _, batch in seen]
        t, targets = torch.cat([batch.t for batch in batches]), torch.cat([batch.labels for batch in batches])
        clean = torch.cat([scaled(chosen) for _, chosen, _ in seen])
        x_vp, wide = torch.cat([batch.x_vp for batch in batches]), t.double()
        mean, std = marginal_mean(wide).view(-1, 1, 1, 1), marginal_std(wide).view(-1, 1, 1, 1)
        noise = (x_vp - mean * clean) / std
        assert torch.equal(numbers.view(epochs, 400).sort().values, torch.arange(400).expand(epochs, 400))
        assert torch.equal(targets, labels[numbers])
        assert [len(row) for row, _, _ in seen] == [64] * 6 + [16] + ([64] * 6 + [16]) * (epochs - 1)
        drawn[name] = (numbers, t, noise.flatten(), targets)
        seen.clear()
    (order, t, noise, targets), (own_order, own_t, own_noise, _) = drawn["shared"], drawn["own"]
    assert not torch.equal(order, own_order)
    assert stats.ks_2samp(t, own_t).pvalue > 0.01
    uniform = torch.linspace(0.5 / 20000, 1 - 0.5 / 20000, 20000, dtype=torch.float64)
    assert stats.ks_2samp(t, importance_times(uniform, 1e-3)).pvalue > 0.01
    assert stats.ks_2samp(t[targets == 1], t[targets == 0]).pvalue > 0.01  # whatever the label
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert stats.ks_2samp(noise, own_noise).pvalue > 0.01
    per_epoch = t.view(epochs, 400)
    for one, other in pairwise(per_epoch):  # no epoch repeats another
        assert abs(stats.spearmanr(one, other).statistic) < 0.2
