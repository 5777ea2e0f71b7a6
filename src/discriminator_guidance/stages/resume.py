"""What names the shards and checkpoints of an interrupted stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discriminator_guidance.data.files import sha256
from discriminator_guidance.data.resume import Resumable

if TYPE_CHECKING:
    from discriminator_guidance.networks.precision import Compute
    from discriminator_guidance.stages.layout import Layout


def resumable(
    layout: Layout, name: str, inputs: Sequence[Path], settings: Mapping[str, Any], compute: Compute
) -> Resumable:
    """The shards and checkpoints of a stage run, under a key of everything that determines its result."""
    import numpy as np
    import torch

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
