"""Command `convert`: pretrained checkpoints become the weights that stages load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from discriminator_guidance.checkpoints.weights import save_weights


def write(result: tuple[nn.Module, dict[str, Any]], folder: Path) -> dict[str, object]:
    """Write model.safetensors and model.json into a folder, and say how much they hold."""
    network, arguments = result
    state = network.state_dict()
    save_weights(folder, state, arguments)
    elements = sum(tensor.numel() for tensor in state.values())
    return {"tensors": len(state), "elements": elements, "folder": folder}
