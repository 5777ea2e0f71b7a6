"""How a member's head comes about: its settings, its start, its training, and the members it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.adm_checkpoint import check_fit
from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.files import fingerprint, read_json, sha256
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.chain import of_member, predecessor, trained_row
from discriminator_guidance.stages.context import Context, partial_work
from discriminator_guidance.stages.convert import read_adm
from discriminator_guidance.stages.sharing import companions, draws_seed
from discriminator_guidance.stages.trained import released_file
from discriminator_guidance.training.discriminator import MemberSettings, State, Trainee, train_discriminator
from discriminator_guidance.training.grid import Features, GridFeatures, grid_features
from discriminator_guidance.training.loop import Row
from discriminator_guidance.training.pairs import Split, bootstrap_rows

if TYPE_CHECKING:
    from discriminator_guidance.config import Discriminator


@dataclass(frozen=True)
class Pairs:
    """Real and fake pictures and their fixed split."""

    images: Tensor  # (N, C, H, W) uint8, real ++ fake
    labels: Tensor  # (N,) float32, 1 real, 0 fake
    classes: Tensor | None  # (N,) int64 in a conditional study
    split: Split


@dataclass(frozen=True)
class Bench:
    """Everything that is the same for all members."""

    settings: Discriminator
    context: Context
    inputs: list[Path]
    features: Features
    feature_shape: tuple[int, int, int]
    pairs: Pairs
    compute: Compute
    frozen_precision: str
    at_once: BatchSize  # in training
    grid_at_once: BatchSize

    @cached_property
    def validation(self) -> GridFeatures:
        """The validation images on the common grid; computed when first asked for, after all files were looked at."""
        return grid(self.features, self.pairs, self.pairs.split.validation, self.settings, self.grid_at_once)

    def forget_validation(self) -> None:
        """Give back the memory of the validation grid, before that of the test grid is taken."""
        self.__dict__.pop("validation", None)


def grid(
    features: Features, pairs: Pairs, rows: np.ndarray, settings: Discriminator, at_once: BatchSize
) -> GridFeatures:
    """Validation or test images on the common grid: noise and times depend on the split alone.

    Args:
        features: the frozen extractor.
        pairs: real and fake.
        rows: which of them.
        settings: the section `discriminator`.
        at_once: pairs in one pass of the extractor or a head.

    Returns:
        The same pairs for every member.
    """
    times, each = settings.grid_times, settings.grid_times_per_image
    seed = settings.split.seed
    return grid_features(features, pairs.images, pairs.labels, pairs.classes, rows, times, each, seed, at_once)


def member_settings(settings: Discriminator, member: str) -> MemberSettings:
    """A row of Table 2 after the profile's two factors.

    Args:
        settings: the section `discriminator`.
        member: name of the row.

    Returns:
        What the member is trained with; at least one epoch.
    """
    row, checkpoint = trained_row(settings, member), of_member(settings, member, "checkpoint")
    return MemberSettings(
        seed=row.seed,
        epochs=_scaled(row.epochs, settings),
        learning_rate=row.learning_rate * settings.learning_rate_factor,
        weight_decay=row.weight_decay,
        t_min=row.t_min,
        batch_size=settings.batch_size,
        importance_sampling=of_member(settings, member, "importance_sampling"),
        reshuffle=of_member(settings, member, "reshuffle"),
        flip=settings.flip,
        label_smoothing=of_member(settings, member, "label_smoothing"),
        checkpoint=_scaled(checkpoint, settings) if isinstance(checkpoint, int) else checkpoint,
        checkpoint_every=settings.checkpoint_every,
        draws=draws_seed(settings, member),
    )


def train_member(bench: Bench, member: str, beside: Sequence[str] = ()) -> tuple[EncoderUNet, list[Row], PartialWork]:
    """Train a member from the start that `init` gives it.

    Args:
        bench: what all members share.
        member: its name.
        beside: members, of those that learn from its batches, to be trained in the same pass over the features; as
            far as they get, their work is kept and taken up when their own turn comes.

    Returns:
        The head with the weights to use, in evaluation mode, the rows of its curve, and the unfinished work, to be
        removed when the results are written.
    """
    trained = _trained(bench, member, bench.context.on_metrics, beside)
    inits = (bench.settings.init, of_member(bench.settings, member, "init"))
    if "sequential" in inits and ranks.is_first():  # perhaps another goes on from it
        _end_work(bench, member).save({"head": trained.head.state_dict()})
    trained.head.load_state_dict(trained.kept)
    return trained.head.eval(), trained.history, trained.work


def read_released_head(bench: Bench, path: str, key: str) -> EncoderUNet:
    """A head that somebody else trained.

    Args:
        bench: what all members share.
        path: of the `.pt`.
        key: the setting that names it.

    Returns:
        The head, in evaluation mode.

    Raises:
        InputError: it is missing, damaged, or takes other feature maps.
        ConfigError: it is given classes and the study has none, or the other way round.
    """
    state, arguments = read_adm(released_file(bench.context, path, key))
    channels, size, _ = bench.feature_shape
    head = EncoderUNet(**arguments)
    wanted = EncoderUNet(**{**arguments, "in_channels": channels, "image_size": size, "out_channels": 1})
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.state_dict().items()}
    check_fit(shapes, state, f"a discriminator of {channels} x {size} x {size} feature maps in {path}")
    if arguments["condition"] != (bench.pairs.classes is not None):
        kinds = {True: "with classes", False: "without classes"}
        raise ConfigError(
            f"a discriminator {kinds[not arguments['condition']]} in {path}, as cond says",
            f"one {kinds[arguments['condition']]}",
            f"change {key} or cond",
        )
    head.load_state_dict(state)
    return head.eval()


@dataclass(frozen=True)
class _Trained:
    head: EncoderUNet  # after the last epoch
    kept: State  # the weights to use
    history: list[Row]
    work: PartialWork


def waiting(bench: Bench, member: str) -> list[str]:
    """The members that a member's pass over the features can serve: those whose results are not there yet.

    Args:
        bench: what all members share.
        member: its name.

    Returns:
        Names.
    """
    layout = bench.context.layout
    made = {
        name: layout.discriminator_reports / name / "metrics.json"
        for name in companions(bench.settings, member)
        if (layout.discriminator(name) / "model.safetensors").is_file()
    }
    done = {
        name
        for name, path in made.items()
        if path.is_file() and read_json(path, "discriminator").get("made_from") == made_from(bench, name)
    }
    return [name for name in companions(bench.settings, member) if name not in done]


def made_from(bench: Bench, member: str) -> str:
    """A hash of what DVC compares before it trains a member again: files, settings and code.

    Args:
        bench: what all members share.
        member: its name.

    Returns:
        64 hexadecimal digits.
    """
    files = [sha256(path) for path in bench.inputs]
    told = {"files": files, "settings": _determinants(bench, member), "code": closure_digest("stages.discriminator")}
    return fingerprint(told)


def train_rows(bench: Bench, member: str) -> np.ndarray:
    """The pictures that a member is trained on.

    Args:
        bench: what all members share.
        member: its name.

    Returns:
        Rows in real ++ fake; of a bagged member some of them several times.
    """
    rows, share = bench.pairs.split.train, of_member(bench.settings, member, "bagging")
    return rows if share is None else bootstrap_rows(rows, share, trained_row(bench.settings, member).seed)


def _trained(bench: Bench, member: str, on_metrics: Callable[[int, Row], None], beside: Sequence[str] = ()) -> _Trained:
    context, told = bench.context, member_settings(bench.settings, member)
    head, work, seen = _start(bench, member, told.seed), _work(bench, member), set[int]()

    def on_epoch(epoch: int, row: Row) -> None:
        seen.add(epoch)
        on_metrics(epoch, row)

    words = f"training {member}" + (f" beside {', '.join(beside)}" if beside else "")
    with context.bar(words, told.epochs, "epochs") as advance:
        kept, history = train_discriminator(
            bench.features,
            head,
            bench.pairs.images,
            bench.pairs.labels,
            bench.pairs.classes,
            train_rows(bench, member),
            bench.validation,
            told,
            bench.compute,
            bench.at_once,
            work,
            advance,
            on_epoch,
            [_companion(bench, name) for name in beside],
        )
    for row in history:  # of epochs that another run had done
        if (epoch := int(row["epoch"])) not in seen:
            on_metrics(epoch, {key: value for key, value in row.items() if key != "epoch"})
    return _Trained(head, kept, history, work)


def _companion(bench: Bench, member: str) -> Trainee:
    told = member_settings(bench.settings, member)
    head = _start(bench, member, told.seed)
    return Trainee(head, told, _work(bench, member), lambda epochs: None, lambda epoch, row: None)


def _work(bench: Bench, member: str) -> PartialWork:
    told = _determinants(bench, member)
    return partial_work(bench.context, "discriminator", member, bench.inputs, told, bench.compute)


def _start(bench: Bench, member: str, seed: int) -> EncoderUNet:
    settings, device = bench.settings, bench.compute.device
    init = of_member(settings, member, "init")
    if init == "pretrained":
        path = str(settings.pretrained)
        return read_released_head(bench, path, "discriminator.pretrained").to(device)
    torch.manual_seed(seed)
    head = build_head(
        feature_shape=bench.feature_shape,
        condition=bench.pairs.classes is not None,
        **of_member(settings, member, "network").model_dump(),
    ).to(device)
    before = predecessor(settings, member)
    if before is not None:
        head.load_state_dict(_end_of(bench, before))
    return head


def _end_of(bench: Bench, member: str) -> State:
    """Weights after a member's last epoch, kept from when it was trained, or trained now."""
    kept = _end_work(bench, member).load()
    if kept is None:
        # Its numbers would pass for those of the member that goes on from it.
        trained = _trained(bench, member, lambda epoch, row: None)
        kept = {"head": trained.head.state_dict()}
        if ranks.is_first():
            _end_work(bench, member).save(kept)
            trained.work.remove()
    state: State = kept["head"]
    return state


def _end_work(bench: Bench, member: str) -> PartialWork:
    told = _determinants(bench, member)
    return partial_work(bench.context, "discriminator", f"{member}-end", bench.inputs, told, bench.compute)


def _determinants(bench: Bench, member: str) -> dict[str, Any]:
    """Everything but the input files that decides what a member becomes."""
    settings = bench.settings
    init, before = of_member(settings, member, "init"), predecessor(settings, member)
    return {
        **asdict(member_settings(settings, member)),
        "split": settings.split.model_dump(),
        "images": settings.images,
        "grid": [settings.grid_times, settings.grid_times_per_image],
        "network": of_member(settings, member, "network").model_dump(),
        "init": init,
        "before": None if before is None else _determinants(bench, before),
        "pretrained": sha256(bench.context.layout.root / str(settings.pretrained)) if init == "pretrained" else None,
        "bagging": of_member(settings, member, "bagging"),
        "cond": bench.pairs.classes is not None,
        "frozen_precision": bench.frozen_precision,
    }


def _scaled(epochs: int, settings: Discriminator) -> int:
    return max(1, round(epochs * settings.epoch_factor))
