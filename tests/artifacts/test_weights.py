"""Weights round trip and refuse damage."""

from __future__ import annotations

import pytest
import torch

from discriminator_guidance.artifacts.weights import load_weights, save_weights
from discriminator_guidance.errors import InputError


def test_round_trip_is_exact(tmp_path):
    state = {"a.weight": torch.randn(3, 2), "b": torch.arange(3)}
    save_weights(tmp_path, state, {"width": 3})
    loaded, arguments = load_weights(tmp_path, "score")
    assert arguments == {"width": 3}
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_non_contiguous_tensors_are_saved(tmp_path):
    save_weights(tmp_path, {"a": torch.arange(6).view(2, 3).T}, {})
    assert load_weights(tmp_path, "score")[0]["a"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("length", [0, 4, 30])
def test_truncated_weights_are_refused(tmp_path, length):
    save_weights(tmp_path, {"a": torch.randn(100)}, {})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="run stage score again"):
        load_weights(tmp_path, "score")
