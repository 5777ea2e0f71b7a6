"""What the stages `score`, `extractor` and `fid_network` leave behind: weights and a training curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from discriminator_guidance.artifacts.files import write_csv
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.artifacts.weights import save_weights
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
) -> StageResult:
    """Write `model.safetensors`, `model.json` and `history.csv`, and forget the unfinished work.

    Args:
        context: where files are.
        word: the stage.
        network: trained.
        arguments: its constructor arguments.
        history: rows of the training curve.
        work: the checkpoints that are no longer needed.
        compute: device and precision it was trained with.

    Returns:
        The last row of the curve, the number of parameters and the precision.
    """
    folder = context.layout.model(word)
    save_weights(folder, network.state_dict(), arguments)
    write_csv(folder / "history.csv", history)
    work.remove()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return StageResult(
        summary={**history[-1], "parameters": parameters, "precision": compute.mode},
        outputs=[folder / name for name in ("model.safetensors", "model.json", "history.csv")],
        artifacts=[folder / "history.csv"],
        weights=folder / "model.safetensors",
    )
