"""Weights round trip, damage is refused, and a network is given no memory before its weights fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import load_network, load_weights, save_weights
from discriminator_guidance.networks.edm import EDMPrecond

from .lookalike import TINY, network


def test_round_trip_is_exact(tmp_path):
    state = {"a.weight": torch.randn(3, 2), "b": torch.arange(3), "view": torch.arange(6).view(2, 3).T}
    save_weights(tmp_path, state, {"width": 3})
    loaded, arguments = load_weights(tmp_path, "score")
    assert arguments == {"width": 3}
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_truncated_and_missing_weights_are_refused(tmp_path):
    save_weights(tmp_path, {"a": torch.randn(100)}, {})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InputError, match="run stage score again"):
        load_weights(tmp_path, "score")
    path.unlink()
    with pytest.raises(InputError, match=r"does not exist; run `dvc repro` \(stage score"):
        load_weights(tmp_path, "score")


@pytest.mark.parametrize(
    "changes",
    [{"odd": 1}, {"num_blocks": 10**8}, {"model_channels": 2**16, "channel_mult": [8]}, {"img_resolution": "large"}],
    ids=str,
)
def test_arguments_that_do_not_fit_the_tensors_are_refused_at_once(changes: dict[str, Any], tmp_path: Path) -> None:
    save_weights(tmp_path, network(TINY).state_dict(), TINY | changes)
    with pytest.raises(InputError, match=r"the weights in .* do not fit their config.json.*run stage score again"):
        load_network(EDMPrecond, tmp_path, "score")
