"""The folders of a profile, and how the networks in them are trained, read and saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from dguide import tracking
from dguide.settings import Config, plain
from dguide.tracking import Tracker
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import Resumable, save_weights, sha256, source_hash, write_csv
from discriminator_guidance.core.runtime import is_first, world_size

if TYPE_CHECKING:
    from torch import nn

    from discriminator_guidance.core.runtime import Compute
    from discriminator_guidance.training.loop import Report, Row

Network = TypeVar("Network", bound="nn.Module")
REPLICATED = ("score", "extractor", "fake", "discriminator", "guided")  # stages that run once for each replicate


@dataclass(frozen=True)
class Layout:
    """The folders of one profile in the project folder `root`, or of one of its training replicates."""

    root: Path
    profile: str
    replicate: str = ""  # "r0": what has training seeds of its own lies in a folder of this name; "" with one replicate

    def replicates(self, count: int) -> list[Layout]:
        """The folders of each replicate."""
        return [replace(self, replicate=f"r{number}" if count > 1 else "") for number in range(count)]

    @property
    def real(self) -> Path:
        """train.npz, holdout.npz, card.json, grid.png."""
        return self.root / "data" / self.profile / "real"

    @property
    def fake(self) -> Path:
        """samples.npz, grid.png."""
        return self.root / "data" / self.profile / "fake" / self.replicate

    def guided(self, variant: str) -> Path:
        """samples.npz, grid.png of a variant."""
        return self.root / "data" / self.profile / "guided" / variant / self.replicate

    def model(self, word: str) -> Path:
        """model.safetensors, config.json, history.csv of `score`, `extractor` or `fid_network`."""
        return self.root / "models" / self.profile / word / ("" if word == "fid_network" else self.replicate)

    def discriminator(self, member: str) -> Path:
        """Weights and test logits of a member."""
        return self.root / "models" / self.profile / "discriminator" / member / self.replicate

    def start(self, path: str) -> Path:
        """The start of a member: a network of this replicate, or a released file."""
        return self.root / path / (self.replicate if path.startswith("models/") else "")

    @property
    def report(self) -> Path:
        """Tables, figures, index.html, and what other stages report."""
        return self.root / "reports" / self.profile

    def discriminator_report(self, member: str) -> Path:
        """metrics.json, history.csv, calibration.csv of a member."""
        return self.report / "discriminator" / member / self.replicate

    def evaluation(self, variant: str) -> Path:
        """The metrics of a variant that DVC compares."""
        return self.report / "evaluation" / f"{variant}.json"

    def details(self, variant: str) -> Path:
        """The other results of a variant: intervals, scores, how it was sampled."""
        return self.report / "details" / f"{variant}.json"

    @property
    def differences(self) -> Path:
        """The difference of every variant from every other."""
        return self.report / "details" / "differences.csv"

    @property
    def provenance(self) -> Path:
        """Commit, versions and machine of the last report; in neither git nor DVC."""
        return self.root / "data" / self.profile / "provenance.json"

    @property
    def study(self) -> Path:
        """Journals, tables and figures of the studies."""
        return self.report / "study"

    @property
    def trials(self) -> Path:
        """Samples of the trials of studies."""
        return self.root / "data" / self.profile / "study"

    @property
    def partial(self) -> Path:
        """Shards and checkpoints of interrupted stages; safe to delete when nothing runs."""
        return self.root / ".partial" / self.profile / self.replicate


PAUSE_S = 0.002  # no row of a training curve takes less


@contextmanager
def network_training(
    config: Config, layout: Layout, tracker: Tracker, word: str, compute: Compute
) -> Iterator[tuple[Resumable, Report]]:
    """The checkpoints of the network of stage `word`, which learns from real images, and what takes its curve."""
    settings = getattr(config, word)
    total = max([settings.training.iterations, *getattr(settings, "snapshots", {}).values()])
    key = {**plain(settings, "name"), "cond": config.cond, "ranks": world_size()}
    with training_report(tracker, f"training {word}", total, "iterations") as report:
        yield resumable(layout, word, [layout.real / "train.npz"], key, compute), report


def save_network(
    layout: Layout,
    tracker: Tracker,
    word: str,
    network: nn.Module,
    arguments: Mapping[str, Any],
    history: Sequence[Row] = (),
) -> dict[str, Any]:
    """Write model.safetensors, config.json and history.csv, which is empty for a released network; its summary."""
    folder = layout.model(word)
    if is_first():
        save_weights(folder, network.state_dict(), arguments)
        write_csv(folder / "history.csv", history, ("iteration", "loss"))
    tracker.model(f"{word}-{layout.profile}", folder / "model.safetensors")
    last = {f"final_{name}": value for row in history[-1:] for name, value in row.items() if name != "iteration"}
    return {**last, "parameters": sum(parameter.numel() for parameter in network.parameters())}


def resumable(
    layout: Layout, name: str, inputs: Sequence[Path], settings: Mapping[str, Any], compute: Compute
) -> Resumable:
    """The shards and checkpoints of a stage run, under a key of everything that determines its result."""
    key = {
        "inputs": {str(path.relative_to(layout.root)): sha256(path) for path in inputs},
        "settings": settings,
        "stages": source_hash(Path(__file__).with_name("stages")),
        "torch": torch.__version__,
        "numpy": np.__version__,  # draws the noise
        "device": compute.device.type,
        "precision": compute.mode,
        "threads": torch.get_num_threads(),
    }
    return Resumable(layout.partial, name, key)


def released_file(layout: Layout, path: str, key: str) -> Path:
    """A file of pretrained weights under data/raw, which the setting `key` names."""
    file = layout.root / path
    if not file.is_file():
        raise InputError(f"the file of {key} at {path}", "no such file", "run `dguide fetch`, or put it there by hand")
    return file


def read_released(
    read: Callable[[Path], tuple[Network, dict[str, Any]]], layout: Layout, path: str, key: str, wanted: dict[str, Any]
) -> tuple[Network, dict[str, Any]]:
    """The network of pretrained weights that the setting `key` names, and its arguments, if they are those wanted."""
    network, arguments = read(released_file(layout, path, key))
    remedy = f"change {key}, or what it must fit: real.image_size, the extractor or cond"
    require_arguments(f"a network in {path}", wanted, {"label_dim": 0, **arguments}, remedy)
    return network, arguments


def require_arguments(what: str, wanted: Mapping[str, Any], arguments: Mapping[str, Any], remedy: str) -> None:
    """Refuse a network whose constructor arguments are not those that settings and images ask for."""
    for name, value in wanted.items():
        if arguments[name] != value:
            raise InputError(f"{what} with {name} {value}", f"{name} {arguments[name]}", remedy)


@contextmanager
def training_report(tracker: Tracker, description: str, total: int, unit: str) -> Iterator[Report]:
    """Show the progress of a training and track its curve."""
    with tracking.bar(description, total, unit) as advance:
        done, reported = 0, time.monotonic()

        def report(now: int, row: Row) -> None:
            nonlocal done, reported
            # A resumed training reports the rows of its checkpoint again, without a pause.
            advance(now - done, resumed=time.monotonic() - reported < PAUSE_S)
            tracker.metrics(now, row)
            done, reported = now, time.monotonic()

        yield report
