"""Training of discriminator heads on frozen features: one, or several that learn from the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance import ranks
from discriminator_guidance.diffusion.seeds import generator, torch_seed
from discriminator_guidance.errors import DivergenceError
from discriminator_guidance.imports import uncollected
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.training.grid import Features, GridFeatures, accuracy, grid_logits
from discriminator_guidance.training.loop import Batch, Checkpoints, Row, accumulate_gradients, gradients, own_part
from discriminator_guidance.training.pairs import NoisedBatch, draw_noised

State = dict[str, Tensor]


@dataclass(frozen=True)
class MemberSettings:
    """One member of the ensemble: a row of Table 2 after the two factors, and what all rows share."""

    seed: int
    epochs: int
    learning_rate: float
    weight_decay: float
    t_min: float
    batch_size: int
    importance_sampling: bool
    reshuffle: bool
    flip: bool
    label_smoothing: float
    checkpoint: Literal["last", "best"] | int  # the epoch whose weights are used
    checkpoint_every: int
    draws: int  # seed of order, times, noise and flips: the member's own, or that of all who share their batches

    @property
    def batches(self) -> tuple[object, ...]:
        """What decides the batches of noised pictures, the training images apart."""
        times = self.t_min, self.importance_sampling
        return (self.draws, self.batch_size, self.reshuffle, self.flip, *times)


@dataclass(frozen=True)
class Trainee:
    """A head in training, and who is told of it.

    Args:
        head: trained in place.
        settings: the member.
        checkpoints: where resumable states go.
        on_epochs: progress.
        on_metrics: told the row of each epoch.
    """

    head: nn.Module
    settings: MemberSettings
    checkpoints: Checkpoints
    on_epochs: Callable[[int], None]
    on_metrics: Callable[[int, Row], None]


def train_discriminator(
    features: Features,
    head: nn.Module,
    images: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    train_rows: np.ndarray,
    validation: GridFeatures,
    settings: MemberSettings,
    compute: Compute,
    at_once: BatchSize,
    checkpoints: Checkpoints,
    on_epochs: Callable[[int], None],
    on_metrics: Callable[[int, Row], None],
    beside: Sequence[Trainee] = (),
) -> tuple[State, list[Row]]:
    """Train a head to tell real from fake at every VP time.

    Args:
        features: the frozen extractor.
        head: trained in place.
        images: (N, C, H, W) uint8, real ++ fake, on the device.
        labels: (N,) float32, 1 real, 0 fake.
        classes: (N,) int64 for a conditional head.
        train_rows: the training images; one that is named twice is used twice in an epoch.
        validation: features of the validation images on the common grid.
        settings: the member.
        compute: device and precision.
        at_once: pictures in one pass.
        checkpoints: where resumable states go.
        on_epochs: progress.
        on_metrics: told the row of each epoch.
        beside: heads that are trained on the features of the same batches, as long as this one is; what becomes of
            each is the same without the others. Their states are kept when this one is done; one that diverges is
            left at its last checkpoint.

    Returns:
        The weights to use, as `settings.checkpoint` chooses, and one row for each epoch: losses and accuracies on
        training batches and on the validation grid. The head itself ends with the weights of the last epoch.

    Raises:
        DivergenceError: a loss or gradient is not finite; it is named with picture and VP time where one alone causes
            it, and the last checkpoint is kept.

    Source: Kim et al. 2023, Eq. 4 (BCE over importance-sampled times); the study's Table 2.

    Deviation: several ranks, see `loop.train`.
    """
    own = _Training(Trainee(head, settings, checkpoints, on_epochs, on_metrics), compute)
    others = [_Training(trainee, compute) for trainee in beside]
    at_once.resume(own.halved)
    batches = settings.batches
    assert all(other.settings.batches == batches for other in others), "heads of one pass learn from the same batches"
    for epoch in range(len(own.history), settings.epochs):
        # One that went on from a later checkpoint waits, one that went on from an earlier one stays behind.
        present = [other for other in others if other.is_at(epoch)]
        for batch in _batches(features, images, labels, classes, train_rows, settings, at_once, epoch):
            own.step(batch, at_once)
            present = [other for other in present if other.survives(other.step, batch, at_once)]
        own.end_epoch(validation)
        for other in present:
            other.survives(other.end_epoch, validation)
    for other in others:
        other.save()
    return own.kept, own.history


@dataclass(frozen=True)
class _FrozenBatch:
    """A noised batch after the extractor, of several ranks the part of this one."""

    epoch: int
    number: int
    rows: Tensor  # (n,) of real ++ fake
    weight: float  # of these rows in the mean over the batch
    size: int  # pictures of the whole batch
    of: int  # pictures of an epoch
    tensors: Batch  # features, VP times, labels, classes of a conditional study


def _batches(
    features: Features,
    images: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    train_rows: np.ndarray,
    settings: MemberSettings,
    at_once: BatchSize,
    epoch: int,
) -> Iterator[_FrozenBatch]:
    # The study never reshuffled: every epoch saw the batches of the first.
    order = generator(settings.draws, "order", epoch if settings.reshuffle else 0, 0).permutation(train_rows)
    for number, start in enumerate(range(0, len(order), settings.batch_size)):
        rows = torch.from_numpy(order[start : start + settings.batch_size]).to(images.device)
        rng = generator(settings.draws, "batch", epoch, number)
        uniform = 0.0 if settings.importance_sampling else 1.0
        whole = draw_noised(images[rows], labels[rows], rng, settings.t_min, uniform, settings.flip)
        own, weight = own_part(len(rows))
        noised = NoisedBatch(whole.x_vp[own], whole.t[own], whole.labels[own])

        def frozen(size: int, noised: NoisedBatch = noised) -> Tensor:
            parts = [slice(first, first + size) for first in range(0, len(noised.t), size)]
            with torch.no_grad():
                found = [features(noised.x_vp[part], noised.t[part]) for part in parts]
            return found[0] if len(found) == 1 else torch.cat(found)

        tensors: Batch = (at_once.attempt(frozen), noised.t, noised.labels)
        if classes is not None:
            tensors = (*tensors, classes[rows[own]])
        yield _FrozenBatch(epoch, number, rows[own], weight, len(rows), len(order), tensors)


class _Training:
    """The state of a head in training, which goes on from its checkpoint."""

    def __init__(self, trainee: Trainee, compute: Compute) -> None:
        self.head, self.settings, self.compute = trainee.head, trainee.settings, compute
        self._trainee = trainee
        with uncollected("torch._dynamo"):  # which torch's optimizers import
            self.optimizer = torch.optim.Adam(
                self.head.parameters(),
                lr=self.settings.learning_rate,
                weight_decay=self.settings.weight_decay,
                fused=True,
            )
        self.history: list[Row] = []
        self.kept: State = {}
        self.halved: set[int] = set()  # sizes that passes over its batches came down to
        self._means = Row()
        self._saved, self._diverged = 0, False
        state = trainee.checkpoints.load()
        if state is not None:
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history, self.kept = state["history"], state["kept"]
            self.halved.update(state["halved"])
            self._saved = len(self.history)
            trainee.on_epochs(self._saved)
        ranks.require_same(self._saved, "epoch to go on from")

    def is_at(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is the next one."""
        return len(self.history) == epoch < self.settings.epochs and not self._diverged

    def survives(self, work: Callable[..., None], *given: Any) -> bool:
        """Do something of which only this head shall suffer if it diverges."""
        try:
            work(*given)
        except DivergenceError:
            self._diverged = True
        return not self._diverged

    def step(self, batch: _FrozenBatch, at_once: BatchSize) -> None:
        """One step of the optimizer on the mean loss of a batch."""
        settings, head = self.settings, self.head
        if batch.number == 0:
            self._means = Row(train_loss=0.0, train_accuracy=0.0)
        head.train()

        def passes(size: int) -> Row:
            torch.manual_seed(torch_seed(settings.seed, ranks.own_stream(f"dropout {batch.epoch}"), batch.number))
            self.optimizer.zero_grad(set_to_none=True)
            return accumulate_gradients(self._loss, batch.tensors, size, batch.weight)

        row = ranks.added(at_once.attempt(passes))
        ranks.add_up(found := gradients(head))
        self.halved.update(at_once.halved)
        place = f"epoch {batch.epoch + 1}, batch {batch.number + 1}"
        if not math.isfinite(row["loss"]):
            place += _faulty(self._loss, batch.tensors, batch.rows)
        _refuse_non_finite("training loss", row["loss"], place)
        # One step along such a gradient spoils every weight, and the checkpoint after it.
        _refuse_non_finite("gradient norm", float(nn.utils.get_total_norm(found)), place)
        self.optimizer.step()
        for name in ("loss", "accuracy"):
            self._means[f"train_{name}"] += row[name] * batch.size / batch.of

    def end_epoch(self, validation: GridFeatures) -> None:
        """Validate, keep the weights if they are those to use, tell, and save when it is time."""
        epoch, settings = len(self.history) + 1, self.settings
        logits = grid_logits(self.head, validation, self.compute)
        row = {
            "epoch": epoch,
            **self._means,
            "validation_loss": binary_cross_entropy(logits, validation.labels).item(),
        }
        _refuse_non_finite("validation loss", row["validation_loss"], f"epoch {epoch}")
        row["validation_accuracy"] = accuracy(logits, validation.labels)
        self.history.append(row)
        if _is_kept(self.history, settings):
            self.kept = {name: tensor.detach().clone() for name, tensor in self.head.state_dict().items()}
        self._trainee.on_metrics(epoch, {key: value for key, value in row.items() if key != "epoch"})
        if epoch % settings.checkpoint_every == 0:
            self.save()
        self._trainee.on_epochs(1)

    def save(self) -> None:
        """Keep the state after the last whole epoch, unless it is kept or spoilt."""
        if self._diverged or len(self.history) == self._saved:
            return
        if ranks.is_first():
            self._trainee.checkpoints.save(
                {
                    "head": self.head.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "history": self.history,
                    "kept": self.kept,
                    "halved": sorted(self.halved),
                }
            )
        self._saved = len(self.history)

    def _loss(self, batch: Batch) -> tuple[Tensor, Row]:
        frozen, t, target, *condition = batch
        with self.compute.autocast():
            logits = self.head(frozen, t, *condition).view(-1)
        smoothed = target + self.settings.label_smoothing * (1 - 2 * target)
        loss = binary_cross_entropy(logits.float(), smoothed)
        return loss, {"accuracy": accuracy(logits.detach(), target)}


def _is_kept(history: list[Row], settings: MemberSettings) -> bool:
    """Whether the weights after the last epoch of the history are, so far, those to use."""
    epoch, loss = len(history), history[-1]["validation_loss"]
    if settings.checkpoint == "best":
        return all(loss < row["validation_loss"] for row in history[:-1])
    return epoch == (settings.epochs if settings.checkpoint == "last" else settings.checkpoint)


@torch.no_grad()
def _faulty(loss_of: Callable[[Batch], tuple[Tensor, Row]], batch: Batch, rows: Tensor) -> str:
    """The first picture whose own loss is not finite, with its VP time."""
    for place, row in enumerate(rows.tolist()):
        loss, _ = loss_of(tuple(tensor[place : place + 1] for tensor in batch))
        if not math.isfinite(loss.item()):
            return f": picture {row} at VP time t = {float(batch[1][place]):.4g}"
    return ""


def _refuse_non_finite(kind: str, value: float, place: str) -> None:
    if not math.isfinite(value):
        raise DivergenceError(
            f"a finite {kind}",
            f"{value} in {place}",
            "lower the member's learning_rate or learning_rate_factor; the last checkpoint is kept",
        )
