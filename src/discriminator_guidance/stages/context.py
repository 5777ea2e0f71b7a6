"""What a stage is given besides its settings, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.stages.layout import Layout

if TYPE_CHECKING:  # not every stage computes, and torch takes a second to import
    from discriminator_guidance.networks.precision import Compute

SAMPLING = ("fake", "guided")
Bar = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]  # (description, total, unit)


@dataclass(frozen=True)
class Context:
    """The surroundings of a stage run.

    Args:
        layout: where files are.
        bar: opens a progress bar; the value it yields is called with the amount done.
        on_metrics: told numbers as they arise, by step.
        notice: shows the user one line.
    """

    layout: Layout
    bar: Bar
    on_metrics: Callable[[int, Mapping[str, float]], None]
    notice: Callable[[str], None]


@dataclass(frozen=True)
class StageResult:
    """What a stage run leaves behind for people and for tracking; its files are the record.

    Args:
        summary: the numbers and words worth a line in the terminal.
        outputs: files it wrote.
        artifacts: files worth attaching to a tracking run (pictures, tables).
        metrics: numbers for the tracking run beyond those of the summary.
        weights: weights to register as a model, if any.
    """

    summary: dict[str, Any]
    outputs: list[Path]
    artifacts: list[Path] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    weights: Path | None = None


def prepare_compute(device: str, precision: str, threads: int) -> Compute:
    """Set the machine up as the profile asks.

    Args:
        device: "cpu", "cuda" or "auto".
        precision: "float32", "tf32", "bfloat16" or "auto".
        threads: CPU threads.

    Returns:
        Device and mode.
    """
    import torch

    from discriminator_guidance.networks.memory import keep_memory
    from discriminator_guidance.networks.precision import allow_tf32, resolve_compute

    torch.set_num_threads(threads)
    keep_memory()
    compute = resolve_compute(device, precision)
    allow_tf32(compute.mode == "tf32")
    # What is left to differ is the order of atomic sums in some backward passes.
    torch.backends.cudnn.deterministic = True
    return compute


def partial_work(
    context: Context, stage: str, name: str, inputs: list[Path], settings: Mapping[str, Any], compute: Compute
) -> PartialWork:
    """The folder for unfinished work of a stage run.

    Args:
        context: where files are.
        stage: the stage's word.
        name: member or variant, "" where there is none.
        inputs: files it reads.
        settings: everything it was told.
        compute: device and precision.

    Returns:
        A folder whose name depends on everything that determines the result.
    """
    import numpy as np
    import torch

    determinants = {
        "inputs": {str(path.relative_to(context.layout.root)): sha256(path) for path in inputs},
        "settings": settings,
        "code": closure_digest(f"stages.{stage}"),
        "torch": torch.__version__,
        "numpy": np.__version__,  # draws the noise
        "device": compute.device.type,
        "precision": compute.mode,
        "threads": torch.get_num_threads(),
        # A shard is the same whoever draws it; gradients of another number of ranks are added up in another order.
        "ranks": 1 if stage in SAMPLING else ranks.world_size(),
    }
    return PartialWork(context.layout.partial, f"{stage}-{name}".rstrip("-"), determinants, context.notice)
