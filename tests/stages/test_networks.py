"""Weights beside arguments that are not those of their network are one line, whichever network it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from discriminator_guidance.artifacts.weights import save_weights
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.precision import Compute, resolve_compute
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_denoiser, load_extractor, load_fid_network, load_head

CPU = resolve_compute("cpu", "float32")
LOADERS: dict[str, Callable[[Layout, Compute], nn.Module]] = {
    "score": load_denoiser,
    "extractor": load_extractor,
    "fid_network": load_fid_network,
    "discriminator/d0": lambda layout, compute: load_head(layout, "d0", compute),
}


@pytest.mark.parametrize("arguments", [{"foo": 1}, {}, {"self": 1}, {"source": "inception", "more": 1}])
@pytest.mark.parametrize("place", LOADERS)
def test_arguments_of_nothing_are_one_line(tmp_path: Path, place: str, arguments: dict[str, Any]) -> None:
    layout = Layout(tmp_path, "x")
    save_weights(layout.model(place), {"a": torch.ones(1)}, arguments)
    stage = place.partition("/")[0]
    with pytest.raises(InputError, match=rf"expected weights that fit their model\.json.*run stage {stage} again"):
        LOADERS[place](layout, CPU)
