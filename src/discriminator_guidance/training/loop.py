"""The loop in which every network is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from discriminator_guidance.core.errors import DivergenceError
from discriminator_guidance.core.files import Resumable
from discriminator_guidance.core.noise import torch_seed
from discriminator_guidance.core.runtime import add_up, add_up_numbers, broadcast, is_first, rank, share
from discriminator_guidance.core.settings import DiscriminatorSettings, TrainingSettings

Row = dict[str, float]
Batch = tuple[Tensor, ...]  # one row for each image
Loss = Callable[[Batch], tuple[Tensor, Row]]  # batch -> mean loss, further means to log
State = dict[str, Tensor]
Snapshots = dict[int, State]
Report = Callable[[int, Row], None]  # iterations or epochs done so far, their row of the curve

LOG_EVERY = 20  # iterations in a row of the curve


def train(
    network: nn.Module,
    batch_of: Callable[[int], Batch],
    loss_of: Loss,
    settings: TrainingSettings,
    checkpoints: Resumable | None = None,
    report: Report | None = None,
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
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    run = Training(network, optimizer, ema_decay, "iteration", checkpoints, report)
    wanted = {settings.iterations, *(snapshots or {})}
    network.train()
    window: list[Row] = []
    for iteration in range(run.done, max(wanted)):
        run.set_rate(settings, iteration, settings.iterations)
        batch = batch_of(iteration)
        rows, weight = part_of_process(len(batch[0]))
        part = tuple(tensor[rows] for tensor in batch)
        seed_dropout(settings.seed, "dropout", iteration)
        window.append(run.step(loss_of, part, weight, iteration, f"at iteration {iteration}", settings.gradient_clip))
        done = iteration + 1
        if done in wanted:
            run.kept[done] = copied(run.used)
        if done % LOG_EVERY == 0 or done == max(wanted):
            run.log(done, {key: sum(entry[key] for entry in window) / len(window) for key in window[0]})
            window = []
        # Checkpoints fall on logged iterations, so that no half window is lost.
        if (done % LOG_EVERY == 0 and done % settings.checkpoint_every < LOG_EVERY) or done == max(wanted):
            run.save()
    run.used.load_state_dict(run.kept[settings.iterations])
    if snapshots is not None:
        snapshots.update({iterations: run.kept[iterations] for iterations in snapshots})
    return run.used.eval(), run.history


class Training:
    """A network in training: its optimizer, its average (EMA), its curve, and the weights kept on the way.

    Starts from the last checkpoint, if there is one, and reports its rows again. `clock` counts rows: iterations or
    epochs done.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema_decay: float | None,
        clock: str,
        checkpoints: Resumable | None,
        report: Report | None,
    ) -> None:
        self.network, self.optimizer, self.ema_decay, self.clock = network, optimizer, ema_decay, clock
        self.checkpoints, self.report = checkpoints, report or (lambda done, row: None)
        self.used = network if ema_decay is None else copy.deepcopy(network).requires_grad_(False)
        self.parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
        if ema_decay is not None:
            self.parts["average"] = self.used
        self.history: list[Row] = []
        self.kept: Snapshots = {}
        if (state := broadcast(None if checkpoints is None else checkpoints.load())) is not None:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.history, self.kept = state["history"], state["kept"]
        for row in self.history:
            self.report(int(row[clock]), {name: value for name, value in row.items() if name != clock})

    @property
    def done(self) -> int:
        """The iterations or epochs in the curve."""
        return int(self.history[-1][self.clock]) if self.history else 0

    def set_rate(self, settings: TrainingSettings | DiscriminatorSettings, step: int, steps: int) -> None:
        """Set the learning rate of a step: it falls linearly to 0 over the last `decay_fraction` of all steps."""
        left = (steps - step) / max(1.0, settings.decay_fraction * steps) if settings.decay_fraction else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, left)

    def step(self, loss_of: Loss, batch: Batch, weight: float, number: int, where: str, clip: float = math.inf) -> Row:
        """Take a step, counted from 0, along the gradient summed over the processes; returns the summed means."""
        self.network.zero_grad(set_to_none=True)
        loss, means = loss_of(batch)
        (weight * loss).backward()  # type: ignore[no-untyped-call]
        add_up([parameter.grad for parameter in self.network.parameters() if parameter.grad is not None])
        row = add_up_numbers({key: weight * value for key, value in {"loss": loss.item(), **means}.items()})
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), clip))
        require_finite(where, training_loss=row["loss"], gradient_norm=norm)
        self.optimizer.step()
        if self.ema_decay is not None:
            update_average(self.used, self.network, self.ema_decay, number)
        return row

    def log(self, done: int, row: Row) -> None:
        """Add a row to the curve."""
        self.history.append({self.clock: done, **row})
        self.report(done, row)

    def save(self) -> None:
        """Replace the checkpoint."""
        if self.checkpoints is not None and is_first():
            states = {name: part.state_dict() for name, part in self.parts.items()}
            self.checkpoints.save({**states, "history": self.history, "kept": self.kept})


def copied(network: nn.Module) -> State:
    """The weights of a network as they are now."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def part_of_process(count: int) -> tuple[slice, float]:
    """This process's rows of a batch, and their weight in its mean.

    A process for which no row is left takes the first with weight 0: it needs gradients of the same parameters.
    """
    part = share(count)
    return (slice(part.start, part.stop), len(part) / count) if part else (slice(0, 1), 0.0)


def seed_dropout(seed: int, purpose: str, index: int) -> None:
    """Start torch's own random stream, which draws dropout masks, for one step; each process has a stream."""
    torch.manual_seed(torch_seed(seed, purpose if is_first() else f"{purpose} of rank {rank()}", index))


def require_finite(where: str, **values: float) -> None:
    """Stop a training that diverged, before its optimizer spoils the parameters and the next checkpoint."""
    for name, value in values.items():
        if not math.isfinite(value):
            remedy = "lower learning_rate; the last checkpoint is kept"
            raise DivergenceError(f"a finite {name.replace('_', ' ')}", f"{value} {where}", remedy)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move an exponential moving average (EMA) of parameters towards those after a step, counted from 0."""
    # Ramp-up: at first the average follows closely, or it would remember the random initialisation.
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for buffer, new_buffer in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(new_buffer)
