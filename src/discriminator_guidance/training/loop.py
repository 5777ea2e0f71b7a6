"""The loop of the networks whose training is counted in iterations: score, extractor, fid_network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from discriminator_guidance import distributed
from discriminator_guidance.diffusion.seeds import torch_seed
from discriminator_guidance.errors import DivergenceError

Row = dict[str, float]
Batch = tuple[Tensor, ...]  # one row for each image
Loss = Callable[[Batch], tuple[Tensor, Row]]  # batch -> mean loss, further means to log
Snapshots = dict[int, dict[str, Tensor]]
Report = Callable[[int, Row], None]  # iterations or epochs done so far, their row of the curve

LOG_EVERY = 20  # iterations in a row of the curve


class Checkpoints(Protocol):
    """Where a training run keeps its last state, e.g. `data.resume.Resumable`."""

    def load(self) -> dict[str, Any] | None:
        """The state last given to `save`, if any."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state: tensors and plain values, nested in dictionaries and lists."""


class NoCheckpoints:
    """Keeps no state of a training run."""

    def load(self) -> None:
        """Nothing."""

    def save(self, state: dict[str, Any]) -> None:
        """Forget the state."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained."""

    seed: int
    iterations: int
    batch_size: int
    learning_rate: float
    weight_decay: float  # decoupled (AdamW)
    decay_fraction: float  # the learning rate falls linearly to 0 over this last share of the iterations
    gradient_clip: float  # largest gradient norm
    checkpoint_every: int


def train(
    network: nn.Module,
    batch_of: Callable[[int], Batch],
    loss_of: Loss,
    schedule: Schedule,
    checkpoints: Checkpoints,
    report: Report,
    ema_decay: float | None = None,
    snapshots: Snapshots | None = None,
) -> tuple[nn.Module, list[Row]]:
    """Minimize a loss whose batch depends on the iteration alone, so that a resumed run ends in the same bytes.

    Returns the network to use, which is the exponential moving average (EMA) where `ema_decay` asks for one, in
    evaluation mode, and the training curve. A resumed run reports the rows of its checkpoint again. `snapshots` are
    filled: its keys are numbers of iterations, until the largest of which training goes on, its values become the
    weights to use after them.

    *Deviation:* several processes divide each batch; sums are rounded in another order, and dropout masks differ.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    average = None if ema_decay is None else copy.deepcopy(network).requires_grad_(False)
    history: list[Row] = []
    first = 0
    kept: Snapshots = {schedule.iterations: {}, **(snapshots or {})}
    if (state := distributed.broadcast(checkpoints.load())) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        history, first, kept = state["history"], state["iteration"], {**kept, **state["kept"]}
    for row in history:
        report(int(row["iteration"]), without(row, "iteration"))

    network.train()
    window: list[Row] = []
    used, last = network if average is None else average, max(kept)
    for iteration in range(first, last):
        for group in optimizer.param_groups:
            share = decayed(iteration, schedule.iterations, schedule.decay_fraction)
            group["lr"] = schedule.learning_rate * share
        batch = batch_of(iteration)
        part, weight = own_part(len(batch[0]))
        seed_dropout(schedule.seed, "dropout", iteration)
        row = backward(network, loss_of, tuple(tensor[part] for tensor in batch), weight)
        loss, norm = row["loss"], float(nn.utils.clip_grad_norm_(network.parameters(), schedule.gradient_clip))
        require_finite(f"at iteration {iteration}", "training.learning_rate", training_loss=loss, gradient_norm=norm)
        optimizer.step()
        if average is not None and ema_decay is not None:
            update_average(average, network, ema_decay, iteration)

        window.append(row)
        done = iteration + 1
        if done in kept:
            kept[done] = {name: tensor.detach().clone() for name, tensor in used.state_dict().items()}
        if done % LOG_EVERY == 0 or done == last:
            mean = {key: sum(entry[key] for entry in window) / len(window) for key in window[0]}
            history.append({"iteration": done, **mean})
            report(done, mean)
            window = []
        # Checkpoints fall on logged iterations, so that no half window is lost.
        if distributed.is_first() and done % LOG_EVERY == 0 and done % schedule.checkpoint_every < LOG_EVERY:
            averaged = None if average is None else average.state_dict()
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": averaged}
            checkpoints.save({**state, "history": history, "iteration": done, "kept": kept})
    used.load_state_dict(kept[schedule.iterations])
    if snapshots is not None:
        snapshots.update({iterations: kept[iterations] for iterations in snapshots})
    return used.eval(), history


def own_part(count: int) -> tuple[slice, float]:
    """This process's rows of a batch, and their weight in its mean.

    A process for which no row is left takes the first with weight 0: it needs gradients of the same parameters.
    """
    own = distributed.share(count)
    return (slice(own.start, own.stop), len(own) / count) if own else (slice(0, 1), 0.0)


def seed_dropout(seed: int, purpose: str, index: int) -> None:
    """Start torch's own random stream, which draws dropout masks, for one step; each process has a stream."""
    own = purpose if distributed.is_first() else f"{purpose} of rank {distributed.rank()}"
    torch.manual_seed(torch_seed(seed, own, index))


def backward(network: nn.Module, loss_of: Loss, batch: Batch, weight: float) -> Row:
    """Replace the gradients by those of the weighted loss, summed over the processes; returns the summed means."""
    network.zero_grad(set_to_none=True)
    loss, row = loss_of(batch)
    (weight * loss).backward()  # type: ignore[no-untyped-call]
    distributed.add_up(gradients(network))
    return distributed.add_up_numbers({key: weight * value for key, value in {"loss": loss.item(), **row}.items()})


def gradients(network: nn.Module) -> list[Tensor]:
    """The gradient of each parameter that has one."""
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def require_finite(where: str, rate: str, **values: float) -> None:
    """Stop a training that diverged, before its optimizer spoils the parameters and the next checkpoint."""
    for name, value in values.items():
        if not math.isfinite(value):
            what, remedy = f"a finite {name.replace('_', ' ')}", f"lower {rate}; the last checkpoint is kept"
            raise DivergenceError(what, f"{value} {where}", remedy)


def without(row: Row, clock: str) -> Row:
    """A row of a training curve without its count of iterations or epochs."""
    return {key: value for key, value in row.items() if key != clock}


def decayed(step: int, steps: int, fraction: float) -> float:
    """The learning rate of a step, relative to that of the first: it falls linearly to 0 over the last `fraction`."""
    return min(1.0, (steps - step) / max(1.0, fraction * steps)) if fraction else 1.0


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move an exponential moving average (EMA) of parameters towards those after a step, counted from 0."""
    # Ramp-up: at first the average follows closely, or it would remember the random initialisation.
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for buffer, new_buffer in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(new_buffer)
