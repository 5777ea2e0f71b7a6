"""The loop shared by the three networks that are trained by iterations: score, extractor and fid_network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from discriminator_guidance import ranks
from discriminator_guidance.diffusion.seeds import torch_seed
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.imports import uncollected
from discriminator_guidance.networks.memory import BatchSize

Row = dict[str, float]
Batch = tuple[Tensor, ...]
LOG_EVERY = 20


class Checkpoints(Protocol):
    """Where a training run keeps its last resumable state."""

    def load(self) -> dict[str, Any] | None:
        """Read the last state.

        Returns:
            What was last given to `save`, or None at the beginning.
        """

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last state.

        Args:
            state: tensors and plain values, nested in dictionaries and lists.
        """


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained.

    Args:
        seed: run seed of every draw.
        iterations: number of optimizer steps.
        batch_size: images a step.
        learning_rate: at the start.
        weight_decay: decoupled (AdamW).
        decay_fraction: the learning rate falls linearly to 0 over this last share of the iterations.
        gradient_clip: largest gradient norm.
        checkpoint_every: iterations between resumable states.
    """

    seed: int
    iterations: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    decay_fraction: float
    gradient_clip: float
    checkpoint_every: int

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, relative to the start.

        Args:
            iteration: from 0.

        Returns:
            In (0, 1].
        """
        left = self.iterations - iteration
        return min(1.0, left / max(1.0, self.decay_fraction * self.iterations))


def train(
    network: nn.Module,
    batch_of: Callable[[int], Batch],
    loss_of: Callable[[Batch], tuple[Tensor, Row]],
    schedule: Schedule,
    at_once: BatchSize,
    checkpoints: Checkpoints,
    on_iterations: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
    ema_decay: float | None = None,
) -> tuple[nn.Module, list[Row]]:
    """Minimise a loss whose batch depends on the iteration alone, so that a resumed run repeats an undisturbed one.

    Several ranks divide each batch and add up their gradients: all of them have the same weights all the time.

    Args:
        network: trained in place.
        batch_of: iteration -> tensors with one row for each picture.
        loss_of: such tensors, or some of their rows -> (mean loss, further means to log).
        schedule: length and speed.
        at_once: pictures in one pass; gradients of the passes are added up to those of the batch.
        checkpoints: where resumable states go.
        on_iterations: told how many iterations were done since the last call.
        on_metrics: told the mean of the logged numbers, every few iterations.
        ema_decay: decay of the exponential moving average of the weights; None keeps none.

    Returns:
        The network to use (the average where there is one), in evaluation mode, and the rows of the training curve.

    Raises:
        DivergenceError: a loss or gradient is not finite; the last checkpoint is kept.

    Deviation: what several ranks train differs from what one trains by rounding, and in a network with dropout by other
        masks, which each rank draws for its rows.
    """
    with uncollected("torch._dynamo"):  # which torch's optimizers import
        optimizer = torch.optim.AdamW(  # fused: one pass over the weights in place of ten
            network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
    average = None if ema_decay is None else copy.deepcopy(network).requires_grad_(False)
    history: list[Row] = []
    start = 0
    state = checkpoints.load()
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        history, start = state["history"], state["iteration"]
        at_once.resume(state["halved"])
        on_iterations(start)
    ranks.require_same(start, "iteration to go on from")

    network.train()
    window: list[Row] = []
    for iteration in range(start, schedule.iterations):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * schedule.rate(iteration)
        batch = batch_of(iteration)
        part, weight = own_part(len(batch[0]))
        own = tuple(tensor[part] for tensor in batch)

        def passes(size: int, own: Batch = own, weight: float = weight, iteration: int = iteration) -> Row:
            torch.manual_seed(torch_seed(schedule.seed, ranks.own_stream("dropout"), iteration))
            optimizer.zero_grad(set_to_none=True)
            return accumulate_gradients(loss_of, own, size, weight)

        row = ranks.added(at_once.attempt(passes))
        ranks.add_up(gradients(network))
        if not math.isfinite(row["loss"]):
            raise DivergenceError(
                "a finite training loss",
                f"{row['loss']} at iteration {iteration}{at_fault(loss_of, batch)}",
                "lower training.learning_rate; the last checkpoint is kept",
            )
        norm = nn.utils.clip_grad_norm_(network.parameters(), schedule.gradient_clip)
        if not math.isfinite(norm):  # one such step spoils every weight, and the checkpoint after it
            raise DivergenceError(
                "finite gradients",
                f"a norm of {float(norm)} at iteration {iteration}",
                "lower training.learning_rate; the last checkpoint is kept",
            )
        optimizer.step()
        if average is not None and ema_decay is not None:
            _update_average(average, network, ema_decay, iteration)
        window.append(row)
        done = iteration + 1
        if done % LOG_EVERY == 0 or done == schedule.iterations:
            mean = {key: sum(entry[key] for entry in window) / len(window) for key in window[0]}
            history.append({"iteration": done, **mean})
            on_metrics(done, mean)
            window = []
        # Checkpoints fall on logged iterations, so that no half window is lost.
        if (
            ranks.is_first()
            and done % LOG_EVERY == 0
            and done // schedule.checkpoint_every > (done - LOG_EVERY) // schedule.checkpoint_every
        ):
            checkpoints.save(
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": None if average is None else average.state_dict(),
                    "history": history,
                    "iteration": done,
                    "halved": list(at_once.halved),
                }
            )
        on_iterations(1)
    return (network if average is None else average).eval(), history


def own_part(count: int) -> tuple[slice, float]:
    """The part of a batch that this rank takes.

    Args:
        count: rows of the batch.

    Returns:
        Its rows, and their weight in the mean over the batch. A rank for which none is left takes the first with weight
        0, so that it has gradients for the same weights as the others.
    """
    own = ranks.share(count)
    return (slice(own.start, own.stop), len(own) / count) if own else (slice(0, 1), 0.0)


def accumulate_gradients(
    loss_of: Callable[[Batch], tuple[Tensor, Row]], batch: Batch, size: int, weight: float = 1.0
) -> Row:
    """Add the gradients of a batch's mean loss to the parameters, some rows at a time.

    Args:
        loss_of: rows -> (mean loss, further means).
        batch: tensors with one row for each picture.
        size: rows at a time.
        weight: of this batch in a mean over a larger one.

    Returns:
        The means over the batch, times the weight; the loss under "loss".
    """
    count, total = len(batch[0]), Row()
    for start in range(0, count, size):
        rows = tuple(tensor[start : start + size] for tensor in batch)
        share = weight * len(rows[0]) / count
        loss, row = loss_of(rows)
        (share * loss).backward()  # type: ignore[no-untyped-call]
        for key, value in {"loss": loss.item(), **row}.items():
            total[key] = total.get(key, 0.0) + share * value
    return total


def gradients(network: nn.Module) -> list[Tensor]:
    """The gradients of a network.

    Args:
        network: after a backward pass.

    Returns:
        Of each weight that has one, in order.
    """
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@torch.no_grad()
def at_fault(loss_of: Callable[[Batch], tuple[Tensor, Row]], batch: Batch) -> str:
    """Which row of a batch makes its loss infinite or NaN, in words for an error.

    Args:
        loss_of: rows -> (mean loss, further means).
        batch: tensors with one row for each picture.

    Returns:
        ", row 3 of its batch"; empty where each row alone has a finite loss.
    """
    for row in range(len(batch[0])):
        loss, _ = loss_of(tuple(tensor[row : row + 1] for tensor in batch))
        if not math.isfinite(loss.item()):
            return f", row {row} of its batch"
    return ""


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float, iteration: int) -> None:
    # Ramp-up: at first the average follows closely, or it would remember the random initialisation.
    decay = min(decay, (1 + iteration) / (10 + iteration))
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for buffer, new_buffer in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(new_buffer)
