"""State dicts of ADM classifiers and DG discriminators (`.pt`), and the network that their shapes describe."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import AS_PUBLISHED, damage_refused, fit_network, load_torch, regular
from discriminator_guidance.networks.adm import CHANNEL_MULT, EncoderUNet

COSINE = (64, 3)  # pixels and channels of the released classifier that was trained on the cosine schedule


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a plain state dict (zip or legacy format) by their original names, on the CPU."""
    with damage_refused(f"{path} is not a state dict alone", AS_PUBLISHED):
        state, size = load_torch(regular(path)), path.stat().st_size
        if not isinstance(state, dict) or not state:
            raise ValueError(f"it holds a {type(state).__name__}" if state else "it holds nothing")
        for name, value in state.items():
            if type(value) is not Tensor:
                raise ValueError(f"it has a {type(value).__name__} under {name}")
        if (claimed := sum(tensor.numel() * tensor.element_size() for tensor in state.values())) > size:
            raise ValueError(f"its tensors have {claimed:,} bytes, and the file {size:,}")
        return {name: tensor.detach() for name, tensor in state.items()}


def read_adm(path: Path, num_head_channels: int = 64) -> tuple[EncoderUNet, dict[str, Any]]:
    """A classifier or discriminator, and the arguments that its state dict fits."""
    problem, state = f"{path} does not fit a network of ADM", read_state_dict(path)
    with damage_refused(problem, "use one of ADM's layout, or give its --head-channels"):
        arguments = derive_arguments(state, num_head_channels)
    if (arguments["image_size"], arguments["in_channels"]) == COSINE:
        problem = f"{path} is ADM's 64x64 classifier, whose times are those of the cosine schedule and no VP times"
        raise InputError(problem, "train an extractor of VP-noised images")
    return fit_network(EncoderUNet, arguments, state, problem, AS_PUBLISHED), arguments


def derive_arguments(tensors: Mapping[str, Tensor], num_head_channels: int = 64) -> dict[str, Any]:
    """Arguments of the `EncoderUNet` that a state dict fits; head channels leave no trace in shapes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _, model_channels = shapes["time_embed.0.weight"]
    _, in_channels, *_ = shapes["input_blocks.0.0.weight"]
    _, positions = shapes["out.2.positional_embedding"]
    size = math.isqrt(max(positions - 1, 0))
    if size == 0 or size**2 + 1 != positions:
        raise ValueError(f"out.2.positional_embedding has {positions} positions, one more than no square")
    count = 1 + max(int(block[1]) for name in shapes if (block := re.match(r"input_blocks\.(\d{1,3})\.", name)))
    fitting, blocks = [], {name: shape for name, shape in shapes.items() if name.startswith("input_blocks.")}
    for depth in range(1, count):
        if count % (depth + 1):  # a level is so many blocks and, but for the last, one that halves
            continue
        first = [f"input_blocks.{number}" for number in range(1, count, depth + 1)]
        arguments: dict[str, Any] = {
            "image_size": size << (len(first) - 1),
            "in_channels": in_channels,
            "model_channels": model_channels,
            "out_channels": shapes["out.2.c_proj.weight"][0],
            "num_res_blocks": depth,
            "attention_resolutions": [2**n for n, block in enumerate(first) if f"{block}.1.qkv.weight" in shapes],
            "channel_mult": [shapes[f"{block}.0.in_layers.2.weight"][0] // model_channels for block in first],
            "num_head_channels": num_head_channels,
            "condition": "label_emb.weight" in shapes,
        }
        with torch.device("meta"):
            state = EncoderUNet(**arguments).state_dict()
        if blocks == {name: tuple(state[name].shape) for name in state if name.startswith("input_blocks.")}:
            fitting.append(arguments)
    # Multipliers of the released networks settle what shapes leave open.
    fitting = [fit for fit in fitting if CHANNEL_MULT.get(fit["image_size"]) == tuple(fit["channel_mult"])] or fitting
    if len(fitting) != 1:
        raise ValueError(f"the shapes of its {count - 1} input blocks fit {len(fitting)} networks")
    return fitting[0]
