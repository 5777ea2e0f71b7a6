"""EDM checkpoints are read exactly, nothing in them runs, and everything else is refused in one line."""

import pickle
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discriminator_guidance.checkpoints.edm_pickle import read_edm
from discriminator_guidance.core.errors import InputError

from . import lookalike
from .lookalike import TINY, Call, Raw, checkpoint, dumps, network, parameter, scalar_call, storage_bytes

REFUSED = ["os.system", "builtins.getattr"]
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
        read_network, arguments = read_edm(path)
        return read_network.state_dict(), arguments
    finally:
        assert not canary.exists()


def refusal(content: bytes, canary: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(content, canary)
    message = str(caught.value)
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


@pytest.mark.parametrize(
    ("arguments", "scalar"),
    [(lookalike.DDPMPP, lookalike.SCALAR_OLD), (lookalike.NCSNPP, lookalike.SCALAR_NEW)],
    ids=["ddpmpp", "ncsnpp"],
)
def test_round_trip_is_exact(arguments, scalar, canary):
    made = network(arguments)
    state, described = read(dumps(checkpoint(made, arguments, canary, scalar)), canary)
    original = made.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())
    assert described == {**arguments, "dropout": 0.13, "sigma_data": 0.5}


HIDDEN = {
    "as an entry": lambda data, poison: data.update(extra=[({"deep": [poison]},)]),
    "as storage bytes": lambda data, poison: layer_of(data)["_parameters"].update(w=parameter(poison, 0, (1,), (1,))),
    "as a constructor argument": lambda data, poison: arguments_of(data).update(dropout=poison),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_other_globals_are_refused_by_name(name, hidden, tiny, canary):
    HIDDEN[hidden](tiny, Call(name, (f"touch {canary}",)))
    assert f"its pickle names {name}, which is refused" in refusal(dumps(tiny), canary)


def test_other_globals_in_a_storage_are_refused(tiny, canary):
    start = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    stream = b"".join(start) + dumps(Call("os.system", (f"touch {canary}",)), 2) + pickle.dumps([], 2)
    HIDDEN["as storage bytes"](tiny, stream)
    assert "system" in refusal(dumps(tiny), canary)


@pytest.mark.parametrize(
    "instructions",
    [b"(ios\nsystem\n", pickle.EXT1 + b"\xf0", pickle.BINBYTES8 + struct.pack("<Q", 2**50)],
    ids=range(3),
)
def test_other_instructions_and_impossible_sizes_are_refused(instructions, tiny, canary):
    tiny["extra"] = Raw(instructions)
    refusal(dumps(tiny), canary)


LYING = storage_bytes(torch.ones(3))
assert LYING.count(b"K\x03") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (STORAGE, 0, (1 << 40,), (1,)),
        (STORAGE, 1, (16, 4), (4, 1)),
        (STORAGE, -1, (16, 4), (4, 1)),
        (STORAGE, 0, (16, 4), (-4, 1)),
        (LYING.replace(b"K\x03", b"\x8a\x07" + (1 << 45).to_bytes(7, "little")), 0, (3,), (1,)),
        (LYING.replace(b"K\x03", b"K\x04"), 0, (4,), (1,)),
        (b"noise", 0, (3,), (1,)),
    ],
    ids=range(7),
)
def test_tensors_and_storages_that_lie_are_refused(arguments, tiny, canary):
    layer_of(tiny)["_parameters"]["weight"] = parameter(*arguments)
    refusal(dumps(tiny), canary)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda data: data.pop("ema"), "ema"),
        (lambda data: made_of(data).update(version=7), "version 7"),
        (lambda data: made_of(data).update(class_name="VPPrecond"), "VPPrecond"),
        (lambda data: arguments_of(data).update(model_type="DhariwalUNet"), "SongUNet"),
        (lambda data: arguments_of(data).update(sigma_data=scalar_call(1.0, code="O8")), "numpy scalar of type object"),
    ],
    ids=range(5),
)
def test_other_layouts_are_refused_with_what_was_met(change, got, tiny, canary):
    change(tiny)
    assert got in refusal(dumps(tiny), canary)


VALID = dumps(checkpoint(network(TINY), TINY, Path("canary")))
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=4)


@settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_mutated_files_are_read_or_refused(canary, changes):
    content = bytearray(VALID)
    for position, value, removed in changes:
        at = position % len(content)
        content[at : at + removed] = bytes([value])
    with suppress(InputError):
        read(bytes(content), canary)
