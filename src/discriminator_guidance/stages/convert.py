"""Command `convert`: pretrained checkpoints become the weights that stages load."""

from __future__ import annotations

from pathlib import Path

from discriminator_guidance.checkpoints.released import Weights
from discriminator_guidance.checkpoints.weights import save_weights


def write(result: Weights, folder: Path) -> dict[str, object]:
    """Write model.safetensors and model.json into a folder, and say how much they hold."""
    state, arguments = result
    save_weights(folder, state, arguments)
    elements = sum(tensor.numel() for tensor in state.values())
    return {"tensors": len(state), "elements": elements, "folder": folder}
