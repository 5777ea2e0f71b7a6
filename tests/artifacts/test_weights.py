"""Weights round trip and refuse damage."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save

from discriminator_guidance.artifacts.weights import WEIGHT_FILES, load_weights, save_weights
from discriminator_guidance.errors import InputError
from tests.amount import cases, count


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


def test_no_flipped_bit_is_taken_for_weights(tmp_path):
    save_weights(tmp_path, {"a": torch.randn(5), "b": torch.arange(3)}, {"width": 3})
    for name in WEIGHT_FILES:
        content = (tmp_path / name).read_bytes()
        for bit in map(
            int, np.random.default_rng(0).choice(8 * len(content), cases(60, 8 * len(content)), replace=False)
        ):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << (bit % 8)
            count("bits flipped: weights")
            (tmp_path / name).write_bytes(damaged)
            if name == "model.json" and same_json(bytes(damaged), content):
                continue  # white space
            with pytest.raises(InputError, match="run stage score again"):
                load_weights(tmp_path, "score")
        (tmp_path / name).write_bytes(content)
    load_weights(tmp_path, "score")


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_the_arguments_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "a", {"a": torch.ones(2)}, {"width": 3})
    save_weights(tmp_path / "b", {"a": torch.ones(2)}, {"width": 4})
    shutil.copyfile(tmp_path / "a" / "model.json", tmp_path / "b" / "model.json")
    with pytest.raises(InputError, match=r"model\.json beside it; got bytes that do not fit the checksum"):
        load_weights(tmp_path / "b", "score")


def test_weights_of_before_checksums_are_read_and_those_that_lost_theirs_refused(tmp_path):
    save_weights(tmp_path, {"a": torch.ones(2)}, {})
    (tmp_path / "model.safetensors").write_bytes(save({"a": torch.ones(2)}))
    assert load_weights(tmp_path, "score")[0]["a"].tolist() == [1, 1]
    (tmp_path / "model.safetensors").write_bytes(save({"a": torch.ones(2)}, {"sha257": "0" * 64}))
    with pytest.raises(InputError, match="do not fit the checksum"):
        load_weights(tmp_path, "score")


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"__metadata__": 3}', b"[" * 100_000, b'{"a": {"dtype": "F32"}}'])
def test_a_header_of_another_kind_is_one_line(tmp_path, header):
    save_weights(tmp_path, {"a": torch.ones(2)}, {})
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="run stage score again") as caught:
        load_weights(tmp_path, "score")
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path):
    save_weights(tmp_path, {"a": torch.ones(2)}, {})
    (tmp_path / "model.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="run stage score again"):
        load_weights(tmp_path, "score")


def test_a_record_is_kept_beside_the_arguments_and_under_the_checksum(tmp_path):
    state = {"a": torch.ones(2)}
    save_weights(tmp_path / "plain", state, {"width": 3}, {})
    save_weights(tmp_path / "told", state, {"width": 3}, {"halved_batches": [4]})
    plain, told = (json.loads((tmp_path / name / "model.json").read_text()) for name in ("plain", "told"))
    assert (plain, told) == ({"width": 3}, {"width": 3, "record": {"halved_batches": [4]}})
    assert load_weights(tmp_path / "told", "score")[1] == {"width": 3}
    shutil.copyfile(tmp_path / "plain" / "model.json", tmp_path / "told" / "model.json")
    with pytest.raises(InputError, match="do not fit the checksum"):
        load_weights(tmp_path / "told", "score")
