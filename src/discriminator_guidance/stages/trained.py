"""What the stages `score`, `extractor` and `fid_network` leave behind: weights and a training curve.

Weights that somebody else trained come with an empty curve, so that a stage has the same files in every profile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.files import sha256, write_bytes, write_csv
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.artifacts.weights import save_weights
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.context import Context, StageResult
from discriminator_guidance.training.loop import Row


def save_trained(
    context: Context,
    word: str,
    network: nn.Module,
    arguments: Mapping[str, Any],
    history: list[Row],
    work: PartialWork,
    compute: Compute,
    at_once: BatchSize,
) -> StageResult:
    """Write `model.safetensors`, `model.json` and `history.csv`, and forget the unfinished work; the first rank does.

    Args:
        context: where files are.
        word: the stage.
        network: trained.
        arguments: its constructor arguments.
        history: rows of the training curve.
        work: the checkpoints that are no longer needed.
        compute: device and precision it was trained with.
        at_once: pictures in one pass, as many as were left in the end.

    Returns:
        The last row of the curve, the number of parameters, the precision, the size of a pass and a GPU's name.

    Raises:
        Dismissed: on all other ranks.
    """
    at_once.take_in_others()
    ranks.go_on_alone()
    folder = context.layout.model(word)
    save_weights(folder, network.state_dict(), arguments, at_once.record())
    write_csv(folder / "history.csv", history)
    work.remove()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return StageResult(
        summary={
            **history[-1],
            "parameters": parameters,
            "precision": compute.mode,
            "batch_size": at_once.size,
            **compute.record(),
        },
        outputs=[folder / name for name in ("model.safetensors", "model.json", "history.csv")],
        artifacts=[folder / "history.csv"],
        weights=folder / "model.safetensors",
    )


def save_released(
    context: Context,
    word: str,
    state: Mapping[str, Tensor],
    arguments: Mapping[str, Any],
    source: Path,
    buffers: Collection[str] = (),
) -> StageResult:
    """Write `model.safetensors`, `model.json` and an empty `history.csv` for weights read from a released file.

    Args:
        context: where files are.
        word: the stage.
        state: tensors by name.
        arguments: constructor arguments of their network.
        source: the released file.
        buffers: names of tensors that are no parameters, so that the number printed is the published one.

    Returns:
        Name and sha256 of the file, and the number of parameters.

    Raises:
        Dismissed: on all ranks but the first, which does it.
    """
    ranks.go_on_alone()
    folder = context.layout.model(word)
    save_weights(folder, state, arguments)
    write_bytes(folder / "history.csv", b"iteration,loss\n")
    return StageResult(
        summary={
            "source": source.name,
            "sha256": sha256(source),
            "parameters": sum(tensor.numel() for name, tensor in state.items() if name not in buffers),
        },
        outputs=[folder / name for name in ("model.safetensors", "model.json", "history.csv")],
        weights=folder / "model.safetensors",
    )


def released_file(context: Context, path: str, key: str) -> Path:
    """The place of a released file.

    Args:
        context: where the project is.
        path: relative to the project, or absolute.
        key: the setting that names it.

    Returns:
        Where it is.

    Raises:
        InputError: there is no such file.
    """
    place = context.layout.root / path
    if not place.is_file():
        raise InputError(
            f"the file of {key} at {path}",
            "no such file",
            f"run dguide fetch --profile {context.layout.profile}, or put it there by hand",
        )
    return place
