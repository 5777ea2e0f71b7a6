"""EDM checkpoints are read exactly, nothing in them runs, and everything else is refused in one line."""

from __future__ import annotations

import copyreg
import json
import math
import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discriminator_guidance.checkpoints.edm_pickle import read_edm_pickle
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.edm import EDMPrecond

from .lookalike import (
    DDPMPP,
    NCSNPP,
    SCALAR_NEW,
    SCALAR_OLD,
    TINY,
    Call,
    Raw,
    checkpoint,
    dumps,
    network,
    parameter,
    scalar_call,
    storage_bytes,
)

REFUSED = ["os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "builtins.getattr"]
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
STORAGE = storage_bytes(torch.arange(64.0))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def tiny(canary: Path) -> dict[str, Any]:
    return checkpoint(network(TINY), TINY, canary)


def read(content: bytes, canary: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    path = canary.parent / "edm.pkl"
    path.write_bytes(content)
    try:
        return read_edm_pickle(path)
    finally:
        assert not canary.exists()


def refusal(content: bytes, canary: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(content, canary)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


def made_of(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """What a module below the network is rebuilt from."""
    made: dict[str, Any] = data["ema"].arguments[0]
    for name in names:
        made = made["state"]["_modules"][name].arguments[0]
    return made


def layer_of(data: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a layer whose weight has 16 x 4 elements."""
    layer: dict[str, Any] = made_of(data, "model", "map_layer0")["state"]
    return layer


def arguments_of(data: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = made_of(data)["state"]["_init_kwargs"]
    return arguments


@pytest.mark.parametrize("arguments", [DDPMPP, NCSNPP], ids=["ddpmpp", "ncsnpp"])
@pytest.mark.parametrize("scalar", [SCALAR_NEW, SCALAR_OLD], ids=["numpy2", "numpy1"])
def test_round_trip_is_exact(arguments, scalar, canary):
    made = network(arguments)
    state, found = read(dumps(checkpoint(made, arguments, canary, scalar)), canary)
    original = made.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())
    assert found == {**arguments, "dropout": 0.13, "sigma_data": 0.5}

    again = EDMPrecond(**json.loads(json.dumps(found))).eval()
    again.load_state_dict(state)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 20.0])
    labels = torch.eye(10)[:2] if arguments["label_dim"] else None
    assert torch.equal(again(x, sigma, labels), made(x, sigma, labels))


def test_views_of_one_storage_are_kept_apart(tiny, canary):
    storage = Call("torch.storage._load_from_bytes", (STORAGE,))
    layer_of(tiny)["_parameters"] = {
        "a": parameter(storage, 0, (4, 2), (1, 4)),
        "b": parameter(storage, 16, (3,), (2,)),
    }
    state, _ = read(dumps(tiny, 5), canary)
    assert state["model.map_layer0.a"].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert state["model.map_layer0.b"].tolist() == [16, 18, 20]


def test_constructor_arguments_by_position_numpy_numbers_and_noise_limits(tiny, canary):
    made_of(tiny)["state"]["_init_args"] = (2, 1, 0, True, np.float64(0.002), math.inf, np.float64(0.25), "SongUNet")
    for name in ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "model_type"):
        del arguments_of(tiny)[name]
    found = read(dumps(tiny), canary)[1]
    assert (found["img_resolution"], found["sigma_min"], found["sigma_data"]) == (2, 0.002, 0.25)
    assert not {"sigma_max", "use_fp16", "model_type"} & set(found)


HIDDEN = {
    "as an entry": lambda data, poison: data.update(extra=[({"deep": [poison]},)]),
    "as module_src": lambda data, poison: made_of(data).update(module_src=poison),
    "as a tensor": lambda data, poison: layer_of(data)["_parameters"].update(weight=poison),
    "as storage bytes": lambda data, poison: layer_of(data)["_parameters"].update(w=parameter(poison, 0, (1,), (1,))),
    "as a constructor argument": lambda data, poison: arguments_of(data).update(dropout=poison),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_other_globals_are_refused_by_name(name, hidden, tiny, canary):
    HIDDEN[hidden](tiny, Call(name, (f"touch {canary}",)))
    assert f"a pickle that names {name}, which is refused" in refusal(dumps(tiny), canary)


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_reduce_method_is_refused(protocol, canary):
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {canary}",)

    assert "posix.system" in refusal(pickle.dumps({"ema": Evil()}, protocol), canary)


@pytest.mark.parametrize("name", REFUSED)
def test_other_globals_in_a_storage_are_refused(name, tiny, canary):
    start = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    stream = b"".join(start) + dumps(Call(name, (f"touch {canary}",)), 2) + pickle.dumps([], 2)
    HIDDEN["as storage bytes"](tiny, stream)
    assert name.rpartition(".")[2] in refusal(dumps(tiny), canary)


NAMED = b"ctorch.storage\n_load_from_bytes\n"  # an allowed name
INSTRUCTIONS = [
    b"Pstorage\n",
    pickle.NONE + pickle.BINPERSID,
    b"(ios\nsystem\n",
    b"(cos\nsystem\no",
    b"cos\nsys\x1b[31m\x07\n",
    b"\x8a\xff",
    b"X\xff\xff\xff\x7f",
    pickle.BINBYTES8 + struct.pack("<Q", 2**50),
    pickle.BYTEARRAY8 + struct.pack("<Q", 2**64 - 1),
    pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff",
    pickle.NONE + b"p4294967295\n",
    pickle.NONE + pickle.BUILD,
    NAMED + pickle.EMPTY_DICT + pickle.BUILD,  # attributes of what stands for a name
    NAMED + pickle.EMPTY_TUPLE + pickle.NONE + pickle.NEWOBJ_EX,
    pickle.NEXT_BUFFER,
    pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 200_000 + b"Ns",  # deep, as a key
]


@pytest.mark.parametrize("instructions", INSTRUCTIONS, ids=range(len(INSTRUCTIONS)))
def test_other_instructions_and_impossible_sizes_are_refused(instructions, tiny, canary):
    tiny["extra"] = Raw(instructions)
    refusal(dumps(tiny), canary)


@pytest.mark.parametrize("code", [pickle.EXT1 + b"\xf0", pickle.EXT2 + b"\xf0\0", pickle.EXT4 + b"\xf0\0\0\0"])
def test_extension_codes_are_refused(code, tiny, canary):
    copyreg.add_extension("os", "system", 240)
    try:
        pickle.loads(pickle.PROTO + b"\x02" + code + b".")  # now Python knows it without asking for the name
        tiny["extra"] = Raw(code + pickle.NONE + pickle.TUPLE1 + pickle.REDUCE)
        assert "the instruction EXT" in refusal(dumps(tiny), canary)
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_modules_that_repeat_or_multiply_are_refused(tiny, canary):
    layer = layer_of(tiny)
    layer["_modules"] = {"again": Call(PERSISTENT, ({**made_of(tiny, "model", "map_layer0"), "state": layer},))}
    refusal(dumps(tiny), canary)
    leaf: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    for _ in range(12):
        child = Call(PERSISTENT, ({"type": "class", "version": 6, "class_name": "M", "state": leaf},))
        leaf = {"_parameters": {}, "_buffers": {}, "_modules": {str(n): child for n in range(8)}}
    layer["_modules"] = leaf["_modules"]
    assert "more than the file can hold" in refusal(dumps(tiny), canary)


LYING = storage_bytes(torch.ones(3))
assert LYING.count(b"K\x03") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (STORAGE, 0, (1 << 40,), (1,)),
        (STORAGE, 1, (16, 4), (4, 1)),
        (STORAGE, 0, (16, 4), (1 << 40, 1)),
        (STORAGE, 0, (1 << 20, 1 << 20), (0, 0)),
        (STORAGE, -1, (16, 4), (4, 1)),
        (STORAGE, 0, (16, 4), (-4, 1)),
        (STORAGE, 0, (-16, -4), (4, 1)),
        (STORAGE, 0, (16, 4), (4,)),
        (STORAGE, 0, (16, 4), (1 << 80, 1)),
        (STORAGE, 0, 64, 1),
        (LYING.replace(b"K\x03", b"\x8a\x07" + (1 << 45).to_bytes(7, "little")), 0, (3,), (1,)),
        (LYING.replace(b"K\x03", b"K\x04"), 0, (4,), (1,)),
        (LYING[:-4], 0, (3,), (1,)),
        (b"", 0, (3,), (1,)),
        (b"noise", 0, (3,), (1,)),
        ("text", 0, (3,), (1,)),
    ],
    ids=range(16),
)
def test_tensors_and_storages_that_lie_are_refused(arguments, tiny, canary):
    layer_of(tiny)["_parameters"]["weight"] = parameter(*arguments)
    refusal(dumps(tiny), canary)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda data: data.pop("ema"), "ema"),
        (lambda data: made_of(data).update(version=7), "version 7"),
        (lambda data: made_of(data).update(type="function"), "type function"),
        (lambda data: made_of(data).update(class_name="VPPrecond"), "VPPrecond"),
        (lambda data: arguments_of(data).update(model_type="DhariwalUNet"), "SongUNet"),
        (lambda data: layer_of(data).pop("_parameters"), "_parameters"),
        (lambda data: layer_of(data)["_parameters"].update(w=[1.0]), "list where"),
        (lambda data: arguments_of(data).update(sigma_data=Call("numpy.dtype", ("f8",))), "numpy.dtype"),
        (lambda data: arguments_of(data).update(sigma_data=scalar_call(math.nan)), "argument nan"),
        (lambda data: arguments_of(data).update(sigma_data=scalar_call(1.0, code="O8")), "numpy scalar of type object"),
        (lambda data: arguments_of(data).update(dropout=math.inf), "argument inf"),
    ],
    ids=range(11),
)
def test_other_layouts_are_refused_with_what_was_met(change, got, tiny, canary):
    change(tiny)
    assert got in refusal(dumps(tiny), canary)


def test_truncated_and_missing_files_are_refused(tiny, canary):
    content = dumps(tiny)
    for length in [0, 1, 2, 100, len(content) // 2, len(content) - 1]:
        refusal(content[:length], canary)
    for path in (canary.parent / "none.pkl", canary.parent):
        with pytest.raises(InputError, match=r"No such file|Is a directory"):
            read_edm_pickle(path)


VALID = dumps(checkpoint(network(TINY), TINY, Path("canary")))
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=4)


@settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_mutated_files_are_read_or_refused(canary, changes):
    content = bytearray(VALID)
    for position, value, removed in changes:
        at = position % len(content)
        content[at : at + removed] = bytes([value])
    with suppress(InputError):
        read(bytes(content), canary)
