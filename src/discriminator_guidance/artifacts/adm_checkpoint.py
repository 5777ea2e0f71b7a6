"""State dicts of ADM classifiers and DG discriminators (`.pt`), and the network that their shapes tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from discriminator_guidance.artifacts.inert_pickle import REMEDY, printable, read_content
from discriminator_guidance.artifacts.torch_stream import load_state
from discriminator_guidance.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 3  # of each kind of mismatch
# Multipliers that the released networks have at their picture sizes; they settle what shapes leave open.
RELEASED_MULT = {64: [1, 2, 3, 4], 32: [1, 2, 4], 16: [1, 2], 8: [1]}


def read_adm_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a plain state dict, zip or legacy format, without executing anything in it.

    Args:
        path: `32x32_classifier.pt`, `discriminator_60.pt`, or a file laid out like them.

    Returns:
        Tensors by their original names, on the CPU.

    Raises:
        InputError: it is missing, damaged, names something else than tensors, or is no plain state dict.
    """
    what = f"a state dict in {path}"
    content = read_content(path, what)
    state = load_state(content, what)
    if not isinstance(state, dict) or not state:
        raise InputError(what, f"a {type(state).__name__}" if state else "nothing", REMEDY)
    for name, value in state.items():
        if type(name) is not str or type(value) is not Tensor:
            raise InputError(what, f"{type(value).__name__} under {printable(name)}", "save its state dict alone")
    if sum(value.numel() * value.element_size() for value in state.values()) > len(content):
        raise InputError(what, "tensors that are larger than the file", REMEDY)
    return {name: value.detach() for name, value in state.items()}


def derive_arguments(state: Mapping[str, Tensor], what: str, num_head_channels: int = 64) -> dict[str, Any]:
    """Constructor arguments of the `networks.adm.EncoderUNet` that a state dict belongs to.

    Args:
        state: tensors by their original names.
        what: what was read, for the error.
        num_head_channels: channels an attention head, which leaves no trace in the shapes.

    Returns:
        JSON-able arguments.

    Raises:
        InputError: the shapes fit no such network, or more than one.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        return _arguments(shapes, num_head_channels)
    except KeyError as error:
        raise InputError(
            what, f"no {error.args[0]} in it", "use a classifier or discriminator of ADM's layout"
        ) from None
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(what, printable(error), "use a classifier or discriminator of ADM's layout") from None


def check_fit(expected: Shapes, state: Mapping[str, Tensor], what: str) -> None:
    """Compare names and shapes with those of the network that shall take them.

    Args:
        expected: shapes by name, as the network has them.
        state: tensors by name, as a file has them.
        what: what was read, for the error.

    Raises:
        InputError: tensors are missing, unexpected or of the wrong shape; it names the first of each kind and
            their number.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    wrong = [
        f"{name} {tuple(state[name].shape)} for {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of the wrong shape": wrong}
    faults = [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]
    if faults:
        raise InputError(f"{what} with {len(expected)} tensors of its network", ", ".join(faults), REMEDY)


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ..."


def _arguments(shapes: Shapes, num_head_channels: int) -> dict[str, Any]:
    _, model_channels = _shape(shapes, "time_embed.0.weight", 2)
    _, in_channels, *_ = _shape(shapes, "input_blocks.0.0.weight", 4)
    out_channels, *_ = _shape(shapes, "out.2.c_proj.weight", 3)
    _, positions = _shape(shapes, "out.2.positional_embedding", 2)
    size = math.isqrt(max(positions - 1, 0))
    if size == 0 or size**2 + 1 != positions:
        raise ValueError(f"out.2.positional_embedding with {positions} positions, one more than no square")
    count = 1 + max(int(found[1]) for name in shapes if (found := re.match(r"input_blocks\.(\d{1,3})\.", name)))
    widths = [_shape(shapes, f"input_blocks.{n}.0.in_layers.2.weight", 4)[:2] for n in range(1, count)]
    attends = [f"input_blocks.{n}.1.qkv.weight" in shapes for n in range(1, count)]

    readings = []
    for depth in range(1, count):
        if count % (depth + 1) == 0:
            levels = _levels(widths, attends, depth, model_channels)
            if levels is not None:
                readings.append((depth, size << (len(levels) - 1), levels))
    if len(readings) > 1:
        readings = [r for r in readings if RELEASED_MULT.get(r[1]) == [mult for mult, _ in r[2]]] or readings
    if len(readings) != 1:
        raise ValueError(f"{count - 1} input blocks whose shapes fit {len(readings)} networks")
    depth, image_size, levels = readings[0]
    return {
        "image_size": image_size,
        "in_channels": in_channels,
        "model_channels": model_channels,
        "out_channels": out_channels,
        "num_res_blocks": depth,
        "attention_resolutions": [2**level for level, (_, attended) in enumerate(levels) if attended],
        "channel_mult": [mult for mult, _ in levels],
        "num_head_channels": num_head_channels,
        "condition": "label_emb.weight" in shapes,
    }


def _levels(
    widths: Sequence[tuple[int, ...]], attends: Sequence[bool], depth: int, model_channels: int
) -> list[tuple[int, bool]] | None:
    """Multiplier and attention of each level, if the blocks can be levels of `depth` blocks with one that halves
    the picture between them."""
    levels = []
    for start in range(0, len(widths), depth + 1):
        width, attended = widths[start][0], attends[start]
        inside = range(start + 1, start + depth)
        if any(widths[n] != (width, width) or attends[n] != attended for n in inside) or width % model_channels:
            return None
        halving = start + depth
        if halving < len(widths) and (widths[halving] != (width, width) or attends[halving]):
            return None
        levels.append((width // model_channels, attended))
    return levels


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes[name]
    if len(shape) != dimensions:
        raise ValueError(f"{name} of shape {shape}")
    return shape
