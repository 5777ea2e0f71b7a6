"""Networks as the stages load and save them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from discriminator_guidance import progress
from discriminator_guidance.checkpoints.weights import build_network, load_weights, save_weights
from discriminator_guidance.data.files import write_bytes, write_csv
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.inception import InceptionFeatures
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.training.loop import Report, Row

if TYPE_CHECKING:
    from discriminator_guidance.tracking import Tracker

AS_PUBLISHED = "use the file as its authors published it"
INCEPTION = {"source": "inception"}  # in model.json, in place of constructor arguments: Inception has none


def load_denoiser(layout: Layout, compute: Compute, snapshot: str | None = None) -> EDMPrecond:
    """The score network or a snapshot of it, frozen, to be called under `compute.autocast()`."""
    state, arguments = load_weights(layout.model("score") / (snapshot or ""), "score")
    return compute.place(build_network(EDMPrecond, arguments, state, "score"))


def load_extractor(layout: Layout, compute: Compute) -> EncoderUNet:
    """The feature extractor, frozen, to be called under `compute.autocast()`."""
    state, arguments = load_weights(layout.model("extractor"), "extractor")
    return compute.place(build_network(EncoderUNet, arguments, state, "extractor"))


def load_head(layout: Layout, member: str, compute: Compute) -> EncoderUNet:
    """The head of one discriminator, frozen, to be called under `compute.autocast()`."""
    state, arguments = load_weights(layout.discriminator(member), "discriminator")
    return compute.place(build_network(EncoderUNet, arguments, state, "discriminator"))


def load_fid_network(folder: Path, compute: Compute) -> FidNetwork | InceptionFeatures:
    """The network whose `features` of images in [-1, 1] define the Frechet distance, frozen, in full float32."""
    state, arguments = load_weights(folder, "fid_network")
    network = (
        InceptionFeatures(state)
        if arguments == INCEPTION
        else build_network(FidNetwork, arguments, state, "fid_network")
    )
    return network.to(compute.device).eval().requires_grad_(False)


def save_network(
    folder: Path, network_state: Mapping[str, Tensor], arguments: Mapping[str, Any], history: Sequence[Row]
) -> None:
    """Write model.safetensors, model.json and history.csv, which is empty for a released network."""
    save_weights(folder, network_state, arguments)
    if history:
        write_csv(folder / "history.csv", history)
    else:
        write_bytes(folder / "history.csv", b"iteration,loss\n")


def released_file(layout: Layout, path: str, key: str) -> Path:
    """A file of pretrained weights under data/raw, which the setting `key` names."""
    found = layout.root / path
    if not found.is_file():
        raise InputError(f"the file of {key} at {path}", "no such file", "run `dguide fetch`, or put it there by hand")
    return found


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
