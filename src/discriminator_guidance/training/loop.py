"""The loop in which every network is trained."""

import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from discriminator_guidance.core.errors import DivergenceError
from discriminator_guidance.core.files import Resumable
from discriminator_guidance.core.noise import generator, widest
from discriminator_guidance.core.runtime import add_up, broadcast, is_first, rank, share
from discriminator_guidance.core.settings import Checkpoint, Fraction, TrainingSettings

Row = dict[str, float]
Batch = tuple[Tensor, ...]  # one row for each image
Loss = Callable[[Batch], tuple[Tensor, Row]]  # batch -> mean loss, further means to log
State = dict[str, Tensor]
Report = Callable[[int, Row], None]  # iterations done so far, their row of the curve

OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Schedule(TrainingSettings):
    """A training as `train` carries it out."""

    optimizer: Literal["adam", "adamw"] = "adamw"  # adam: weight decay is a part of the gradient
    ema_decay: Fraction | None = None  # of an exponential moving average of the parameters, which is used then


class Validation(NamedTuple):
    """What is done after each row of the curve."""

    every: int = 20  # iterations in a row
    prefix: str = ""  # of the names of the means over training batches in a row
    scores: Callable[[nn.Module], Row] = lambda network: {}  # added to the row
    checkpoint: Checkpoint = "last"  # the row whose weights are used; best: that of the smallest validation loss
    patience: float = math.inf  # rows without a smaller validation loss after which training ends


class Trained(NamedTuple):
    """The outcome of a training."""

    network: nn.Module  # the one to use, in evaluation mode
    last: State  # the weights after the last iteration, which are no average
    history: list[Row]
    snapshots: dict[int, State]  # the weights to use after other numbers of iterations


@torch.enable_grad()
def train(
    network: nn.Module,
    batch_of: Callable[[int], Batch],
    loss_of: Loss,
    schedule: Schedule,
    checkpoints: Resumable | None = None,
    report: Report | None = None,
    snapshots: Collection[int] = (),
    validation: Validation | None = None,
) -> Trained:
    """Minimize a loss whose batch depends on the iteration alone, so that a resumed run ends in the same bytes.

    The network to use is the exponential moving average (EMA) where the schedule asks for one, with the weights that
    `validation` chose last, or else those after the last iteration of the schedule. A resumed run reports the rows of
    its checkpoint again. `snapshots` are numbers of iterations after which the weights to use are kept too; training
    goes on until the largest of them.

    *Deviation:* several processes divide each batch; sums are rounded in another order, and dropout masks differ.
    """
    report, validation = report or (lambda done, row: None), validation or Validation()
    kind, patience = OPTIMIZERS[schedule.optimizer], validation.patience
    fewest = validation.checkpoint if isinstance(validation.checkpoint, int) else 1
    optimizer = kind(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    used = network if schedule.ema_decay is None else copy.deepcopy(network).requires_grad_(False)
    saved: dict[str, Any] = {"network": network, "optimizer": optimizer, "average": used}
    history, kept = list[Row](), dict[str, State]()  # weights by the number of their iteration, and the chosen ones
    if (state := broadcast(None if checkpoints is None else checkpoints.load())) is not None:
        for name, part in saved.items():
            part.load_state_dict(state[name])
        history, kept = state["history"], state["kept"]
    for row in history:
        report(int(row["iteration"]), {name: value for name, value in row.items() if name != "iteration"})

    wanted, window = {schedule.iterations, *snapshots}, list[tuple[int, Row]]()
    for iteration in range(int(history[-1]["iteration"]) if history else 0, max(wanted)):
        if len(history) >= max(fewest, patience) and len(history) - used_row(history, "best") >= patience:
            break
        network.train()
        left = (schedule.iterations - iteration) / max(1.0, schedule.decay_fraction * schedule.iterations)
        for group in optimizer.param_groups:  # it falls linearly to 0 over the last `decay_fraction`
            group["lr"] = schedule.learning_rate * (min(1.0, left) if schedule.decay_fraction else 1.0)
        purpose = "dropout" if is_first() else f"dropout of rank {rank()}"  # masks come from torch's own stream
        torch.manual_seed(int(generator(schedule.seed, purpose, iteration, 0).integers(2**32)))  # of 32 bits on CPUs
        batch = batch_of(iteration)
        mine = share(len(batch[0]))
        weight = len(mine) / len(batch[0])
        rows = slice(mine.start, mine.stop) if mine else slice(0, 1)  # of weight 0: all processes need all gradients
        loss, further = loss_of(tuple(tensor[rows] for tensor in batch))
        network.zero_grad(set_to_none=True)
        (weight * loss).backward()  # type: ignore[no-untyped-call]
        losses = {"loss": loss.item(), **further}
        shares = weight * torch.tensor([*losses.values()], dtype=widest(loss.device), device=loss.device)
        add_up([shares, *(parameter.grad for parameter in network.parameters() if parameter.grad is not None)])
        row = dict(zip(losses, shares.tolist(), strict=True))  # the means over the whole batch
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), schedule.gradient_clip))
        require_finite(f"at iteration {iteration}", training_loss=row["loss"], gradient_norm=norm)
        optimizer.step()
        if schedule.ema_decay is not None:
            update_average(used, network, schedule.ema_decay, iteration)
        window.append((len(batch[0]), row))

        done = iteration + 1
        if done in wanted:
            kept[str(done)] = copy.deepcopy(used.state_dict())
        if done % validation.every == 0 or done == max(wanted):
            images = sum(count for count, _ in window)
            means = {name: sum(count * means[name] for count, means in window) / images for name in row}
            scored = {f"{validation.prefix}{name}": mean for name, mean in means.items()} | validation.scores(used)
            history.append({"iteration": done, **scored})
            window = []
            report(done, scored)
            if validation.checkpoint != "last" and used_row(history, validation.checkpoint) == len(history):
                kept["chosen"] = copy.deepcopy(used.state_dict())
            # Checkpoints fall on rows of the curve, so that no half window is lost.
            due = done % schedule.checkpoint_every < validation.every or done == max(wanted)
            if due and checkpoints is not None and is_first():
                states = {name: part.state_dict() for name, part in saved.items()}
                checkpoints.save({**states, "history": history, "kept": kept})

    last = copy.deepcopy(network.state_dict())
    if weights := kept.get("chosen", kept.get(str(schedule.iterations))):
        used.load_state_dict(weights)
    return Trained(used.eval(), last, history, {iterations: kept[str(iterations)] for iterations in snapshots})


def used_row(history: Sequence[Row], checkpoint: Checkpoint) -> int:
    """The row of the curve, counted from 1, whose weights are the ones to use."""
    best = int(np.argmin([row["validation_loss"] for row in history])) + 1
    return best if checkpoint == "best" else len(history) if checkpoint == "last" else checkpoint


def require_finite(where: str, **values: float) -> None:
    """Stop a training that diverged, before its optimizer spoils the parameters and the next checkpoint."""
    for name, value in values.items():
        if not math.isfinite(value):
            remedy = "lower learning_rate; the last checkpoint is kept"
            raise DivergenceError(f"the {name.replace('_', ' ')} is {value} {where}", remedy)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move an exponential moving average (EMA) of parameters towards those after a step, counted from 0."""
    # Ramp-up: at first the average follows closely, or it would remember the random initialisation.
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for buffer, new_buffer in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(new_buffer)
