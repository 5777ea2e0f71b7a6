"""Networks as the stages train, load and save them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dguide import progress
from dguide.settings import Config
from dguide.stages.layout import Layout
from dguide.tracking import Tracker
from discriminator_guidance import distributed
from discriminator_guidance.checkpoints.weights import load_network, load_weights, save_weights
from discriminator_guidance.errors import InputError
from discriminator_guidance.files import sha256, write_csv
from discriminator_guidance.metrics.inception import InceptionFeatures
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.resume import Resumable
from discriminator_guidance.training.loop import Report, Row, without

INCEPTION = {"source": "inception"}  # in config.json, in place of constructor arguments: Inception has none


def load_denoiser(layout: Layout, compute: Compute, snapshot: str | None = None) -> EDMPrecond:
    """The score network or a snapshot of it, frozen, to be called under `compute.autocast()`."""
    return compute.place(load_network(EDMPrecond, layout.model("score") / (snapshot or ""), "score"))


def load_extractor(layout: Layout, compute: Compute) -> EncoderUNet:
    """The feature extractor, frozen, to be called under `compute.autocast()`."""
    return compute.place(load_network(EncoderUNet, layout.model("extractor"), "extractor"))


def load_head(layout: Layout, member: str, compute: Compute) -> EncoderUNet:
    """The head of one discriminator, frozen, to be called under `compute.autocast()`."""
    return compute.place(load_network(EncoderUNet, layout.discriminator(member), "discriminator"))


def load_fid_network(folder: Path, compute: Compute) -> FidNetwork | InceptionFeatures:
    """The network whose `features` of images in [-1, 1] define the Frechet distance, frozen, in full float32."""
    state, arguments = load_weights(folder, "fid_network")
    inception = arguments == INCEPTION
    network = InceptionFeatures(state) if inception else load_network(FidNetwork, folder, "fid_network")
    return network.to(compute.device).eval().requires_grad_(False)


def train_network(
    config: Config,
    layout: Layout,
    tracker: Tracker,
    word: str,
    compute: Compute,
    arguments: Mapping[str, Any],
    train: Callable[[Resumable, Report], tuple[nn.Module, list[Row]]],
) -> dict[str, Any]:
    """Train the network of stage `word` on the real images and save it; its summary."""
    settings = getattr(config, word)
    total = max([settings.training.iterations, *getattr(settings, "snapshots", {}).values()])
    key = {**settings.model_dump(exclude={"name"}), "cond": config.cond, "ranks": distributed.world_size()}
    checkpoints = resumable(layout, word, [layout.real / "train.npz"], key, compute)
    with training_report(tracker, f"training {word}", total, "iterations") as report:
        network, history = train(checkpoints, report)
    summary = save_network(layout, tracker, word, network, arguments, history)
    if distributed.is_first():
        checkpoints.remove()
    ends = {f"final_{name}": value for name, value in without(history[-1], "iteration").items()}
    return {**ends, "precision": compute.mode, **compute.record(), **summary}


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
    if distributed.is_first():
        save_weights(folder, network.state_dict(), arguments)
        write_csv(folder / "history.csv", history, ("iteration", "loss"))
    tracker.model(f"{word}-{layout.profile}", folder / "model.safetensors")
    return {"parameters": sum(parameter.numel() for parameter in network.parameters())}


def resumable(
    layout: Layout, name: str, inputs: Sequence[Path], settings: Mapping[str, Any], compute: Compute
) -> Resumable:
    """The shards and checkpoints of a stage run, under a key of everything that determines its result."""
    key = {
        "inputs": {str(path.relative_to(layout.root)): sha256(path) for path in inputs},
        "settings": settings,
        "torch": torch.__version__,
        "numpy": np.__version__,  # draws the noise
        "device": compute.device.type,
        "precision": compute.mode,
        "threads": torch.get_num_threads(),
    }
    return Resumable(layout.partial, name, key)


def released_file(layout: Layout, path: str, key: str) -> Path:
    """A file of pretrained weights under data/raw, which the setting `key` names."""
    found = layout.root / path
    if not found.is_file():
        raise InputError(f"the file of {key} at {path}", "no such file", "run `dguide fetch`, or put it there by hand")
    return found


def require_arguments(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any], remedy: str) -> None:
    """Refuse a network whose constructor arguments are not those that settings and images ask for."""
    for name, value in wanted.items():
        if found[name] != value:
            raise InputError(f"{what} with {name} {value}", f"{name} {found[name]}", remedy)


@contextmanager
def training_report(tracker: Tracker, description: str, total: int, unit: str) -> Iterator[Report]:
    """Show the progress of a training and track its curve."""
    with progress.bar(description, total, unit) as advance:
        done = 0

        def report(now: int, row: Row) -> None:
            nonlocal done
            advance(now - done)
            done = now
            tracker.metrics(now, row)

        yield report
