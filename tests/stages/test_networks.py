"""Weights beside arguments that are not those of their network are one line, whichever network it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from discriminator_guidance.artifacts.weights import save_weights
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.networks.precision import Compute, resolve_compute
from discriminator_guidance.stages.fitting import build_fitting, outline
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_denoiser, load_extractor, load_fid_network, load_head
from tests.artifacts.lookalike import NCSNPP, TINY, network

CPU = resolve_compute("cpu", "float32")
PROJECT = Path(__file__).resolve().parents[2]
HEAD = {"image_size": 4, "in_channels": 8, "model_channels": 8, "out_channels": 1, "num_res_blocks": 1}
HEAD |= {"attention_resolutions": [1], "channel_mult": [1, 2], "num_head_channels": 8}
FID = {"image_size": 8, "in_channels": 3, "channels": [4, 4, 4, 4], "features": 6, "classes": 2}
NETWORKS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "DDPM++": lambda: (network(TINY), TINY),
    "NCSN++": lambda: (network(NCSNPP), NCSNPP),
    "head": lambda: (EncoderUNet(**HEAD, condition=True), HEAD | {"condition": True}),
    "fid_network": lambda: (FidNetwork(**FID), FID),
}
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


@pytest.mark.parametrize(
    "edits",
    [
        {"num_res_blocks": 2**16},
        {"num_res_blocks": 10**9},
        {"channel_mult": [1] * 2000},
        {"channel_mult": [[1] * 2000], "model_channels": 2**17},
        {"channel_mult": {"1": 2000}, "model_channels": 2**17},
        {"model_channels": 10**9},
    ],
    ids=[
        "more blocks than tensors",
        "billions of blocks",
        "levels without end",
        "a list",
        "a word",
        "billions of channels",
    ],
)
def test_a_network_that_the_weights_cannot_be_of_takes_no_memory(edits: dict[str, Any]) -> None:
    """Without a checksum, as of files of before checksums, nothing but the tensors tells."""
    head = build_head((8, 4, 4), 8, 1, 8)
    with pytest.raises(InputError, match=r"more than 1,0\d\d parameters|beyond that of any network"):
        build_fitting(EncoderUNet, {**head.arguments, **edits}, head.state_dict(), "discriminator")


def test_layers_that_others_take_the_place_of_take_no_memory() -> None:
    """Levels of a picture without pixels have one name; the widest would be built, and then forgotten."""
    told = {"img_resolution": 0, "img_channels": 1, "model_channels": 32, "num_blocks": 1, "attn_resolutions": []}
    fitting = EDMPrecond(**told, channel_mult=[1, 1, 1, 1, 1])
    with pytest.raises(InputError, match="several layers of one name"):
        build_fitting(EDMPrecond, {**told, "channel_mult": [1, 1, 2**10, 1, 1]}, fitting.state_dict(), "score")


def test_arguments_that_do_not_divide_name_the_stage() -> None:
    head = build_head((8, 4, 4), 8, 1, 8)
    with pytest.raises(InputError, match=r"num_head_channels|got 5.*run stage discriminator again"):
        build_fitting(EncoderUNet, {**head.arguments, "num_head_channels": 5}, head.state_dict(), "discriminator")


@pytest.mark.parametrize("edits", [{"model_channels": 2**16}, {"image_size": 2**16}, {"in_channels": 9}])
def test_shapes_are_compared_before_there_are_tensors(edits: dict[str, Any]) -> None:
    head = build_head((8, 4, 4), 8, 1, 8)
    with pytest.raises(InputError, match="of the wrong shape"):
        build_fitting(EncoderUNet, {**head.arguments, **edits}, head.state_dict(), "discriminator")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_outline_is_that_of_the_network(name: str) -> None:
    network, arguments = NETWORKS[name]()
    state = network.state_dict()
    drawn = torch.get_rng_state()
    assert outline(type(network), arguments, len(state)) == {key: tuple(value.shape) for key, value in state.items()}
    assert torch.equal(torch.get_rng_state(), drawn), "noise that is drawn afterwards would differ"


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_loaded_is_what_was_saved(name: str) -> None:
    network, arguments = NETWORKS[name]()
    again = build_fitting(type(network), arguments, network.state_dict(), "score")
    saved, loaded = ({**dict(n.named_buffers()), **n.state_dict()} for n in (network, again))
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_an_outline_does_not_load_the_compiler_of_torch() -> None:
    """It would take two seconds of every stage."""
    code = (
        "import sys; from tests.stages.test_networks import NETWORKS, outline;"
        "[outline(type(network), arguments, 0) for network, arguments in (make() for make in NETWORKS.values())];"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
