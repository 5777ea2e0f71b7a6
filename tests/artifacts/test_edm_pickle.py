"""EDM checkpoints are read exactly, nothing in them runs, and everything else is refused by name."""

from __future__ import annotations

import copyreg
import io
import json
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discriminator_guidance.artifacts.edm_pickle import ALLOWED, read_edm_pickle
from discriminator_guidance.artifacts.inert_pickle import ORDERED_DICT, read_inert
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.edm import EDMPrecond
from tests.artifacts.lookalike import (
    DDPMPP,
    NCSNPP,
    SCALAR_NEW,
    SCALAR_OLD,
    TINY,
    Call,
    Named,
    Raw,
    checkpoint,
    dumps,
    network,
    scalar_call,
    storage_bytes,
)

REFUSED = ["os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "builtins.getattr"]

NAMED = b"ccollections\nOrderedDict\n"  # an allowed name
MADE = NAMED + pickle.EMPTY_TUPLE + pickle.REDUCE


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
    assert "\n" not in message
    assert len(message) < 500
    return message


def state_of(data: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = data["ema"].arguments[0]["state"]
    return state


def unet_of(data: dict[str, Any]) -> dict[str, Any]:
    unet: dict[str, Any] = state_of(data)["_modules"]["model"].arguments[0]["state"]
    return unet


def tensor_of(data: dict[str, Any]) -> Call:
    """The tensor of some parameter."""
    layer = unet_of(data)["_modules"]["map_layer0"].arguments[0]["state"]
    tensor: Call = layer["_parameters"]["weight"].arguments[0]
    return tensor


def command(canary: Path) -> str:
    return f"touch {canary}"


@pytest.mark.parametrize("arguments", [DDPMPP, NCSNPP], ids=["ddpmpp", "ncsnpp"])
@pytest.mark.parametrize("layout", ["native", "legacy", "zip"])
@pytest.mark.parametrize("scalar", [SCALAR_NEW, SCALAR_OLD], ids=["numpy2", "numpy1"])
def test_round_trip_is_exact(arguments, layout, scalar, canary):
    made = network(arguments)
    content = dumps(checkpoint(made, arguments, canary, layout=layout, scalar=scalar))
    state, found = read(content, canary)
    original = made.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())
    assert found == {**arguments, "dropout": 0.13, "sigma_data": 0.5}

    again = EDMPrecond(**json.loads(json.dumps(found))).eval()
    again.load_state_dict(state)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 20.0])
    labels = torch.eye(10)[:2] if arguments["label_dim"] else None
    assert torch.equal(again(x, sigma, labels), made(x, sigma, labels))


@pytest.mark.parametrize("protocol", [4, 5])
def test_protocols_with_sets(protocol, tiny, canary):
    assert len(read(dumps(tiny, protocol), canary)[0]) > 10


def test_the_file_names_what_released_ones_name(canary):
    content = dumps(checkpoint(network(NCSNPP), NCSNPP, canary, layout="native"))
    named: set[str] = set()
    read_inert(io.BytesIO(content), ALLOWED, "it", on_record=lambda record: named.add(record.callee))
    assert named == ALLOWED - {SCALAR_OLD, ORDERED_DICT}


def test_views_of_one_storage_are_told_apart(tiny, canary):
    shared = torch.arange(32.0)
    storage = Call("torch.storage._load_from_bytes", (storage_bytes(shared),))
    layers = unet_of(tiny)["_modules"]
    for name, offset in (("map_layer0", 0), ("map_layer1", 16)):
        bias = layers[name].arguments[0]["state"]["_parameters"]["bias"].arguments[0]
        bias.arguments = (storage, offset, (16,), (1,), *bias.arguments[4:])
    state, _ = read(dumps(tiny), canary)
    assert torch.equal(state["model.map_layer0.bias"], shared[:16])
    assert torch.equal(state["model.map_layer1.bias"], shared[16:])


def test_constructor_arguments_by_position_and_noise_limits(tiny, canary):
    state_of(tiny)["_init_args"] = (2, 1, 0, True, 0.002, math.inf, 0.5, "SongUNet")
    kwargs = state_of(tiny)["_init_kwargs"]
    for name in ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "model_type"):
        del kwargs[name]
    found = read(dumps(tiny), canary)[1]
    assert (found["img_resolution"], found["sigma_min"], found["sigma_data"]) == (2, 0.002, 0.5)
    assert "sigma_max" not in found
    assert "use_fp16" not in found


def as_entry(data: dict[str, Any], poison: Any) -> None:
    data["extra"] = poison


def in_nested_state(data: dict[str, Any], poison: Any) -> None:
    unet_of(data)["_modules"]["map_layer0"].arguments[0]["state"]["hooks"] = [({"deep": [poison]},)]


def in_module_src(data: dict[str, Any], poison: Any) -> None:
    data["ema"].arguments[0]["module_src"] = poison


def as_module(data: dict[str, Any], poison: Any) -> None:
    unet_of(data)["_modules"]["map_layer0"] = poison


def as_storage_bytes(data: dict[str, Any], poison: Any) -> None:
    tensor_of(data).arguments[0].arguments = (poison,)


def as_constructor_argument(data: dict[str, Any], poison: Any) -> None:
    state_of(data)["_init_kwargs"]["dropout"] = poison


PLACES = [as_entry, in_nested_state, in_module_src, as_module, as_storage_bytes, as_constructor_argument]


def test_the_canary_notices_what_an_ordinary_unpickler_runs(canary):
    pickle.loads(dumps(Call("os.system", (command(canary),))))
    assert canary.exists()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_other_globals_are_refused_by_name(name, place, tiny, canary):
    place(tiny, Call(name, (command(canary),)))
    assert name in refusal(dumps(tiny), canary)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_reduce_method_is_refused(protocol, tiny, canary):
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return os.system, (command(canary),)

    content = pickle.dumps({"ema": Evil()}, protocol)
    message = refusal(content, canary)
    assert "posix.system" in message or (protocol == 0 and "instruction" in message)
    as_entry(tiny, Evil())
    assert "posix.system" in refusal(dumps(tiny), canary)


def hostile_legacy(name: str, canary: Path) -> bytes:
    """A legacy PyTorch stream whose object is a call."""
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    return b"".join(parts) + dumps(Call(name, (command(canary),)), 2) + pickle.dumps([], 2)


def hostile_zip(name: str, canary: Path) -> bytes:
    """A zip PyTorch stream whose object is a call."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", dumps(Call(name, (command(canary),)), 2))
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("layout", [hostile_legacy, hostile_zip], ids=["legacy", "zip"])
def test_other_globals_in_a_storage_are_refused_by_name(name, layout, tiny, canary):
    as_storage_bytes(tiny, layout(name, canary))
    assert name in refusal(dumps(tiny), canary)


@pytest.mark.parametrize("hidden", ["magic", "keys"])
def test_every_part_of_a_legacy_storage_is_checked(hidden, tiny, canary):
    whole = storage_bytes(torch.ones(3))
    evil = dumps(Call("os.system", (command(canary),)), 2)
    stream = io.BytesIO(whole)
    ends = []
    for _ in range(5):
        for opcode, _, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                ends.append(stream.tell())
    poisoned = evil + whole[ends[0] :] if hidden == "magic" else whole[: ends[3]] + evil + whole[ends[4] :]
    as_storage_bytes(tiny, poisoned)
    assert "os.system" in refusal(dumps(tiny), canary)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (pickle.EXT1 + b"\xf0", "EXT1 (240)"),
        (pickle.EXT2 + b"\xf0\0", "EXT2 (240)"),
        (pickle.EXT4 + b"\xf0\0\0\0", "EXT4 (240)"),
    ],
)
def test_extension_codes_are_refused(code, name, tiny, canary):
    copyreg.add_extension("os", "system", 240)
    try:
        as_entry(tiny, Raw(code + pickle.NONE + pickle.TUPLE1 + pickle.REDUCE))
        assert name in refusal(dumps(tiny), canary)
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize(
    ("instructions", "name"),
    [
        (b"Pstorage\n", "PERSID"),
        (pickle.NONE + pickle.BINPERSID, "BINPERSID"),
        (b"(ios\nsystem\n", "INST"),
        (b"(cos\nsystem\no", "os.system"),
        (b"cos\nsystem\n", "os.system"),
        (pickle.NONE + pickle.DUP, "DUP"),
        (b"\x8a\xff", "damaged"),
        (b"X\xff\xff\xff\x7f", "damaged"),
        (pickle.BINBYTES8 + struct.pack("<Q", 2**50), "damaged"),
        (pickle.BINBYTES8 + struct.pack("<Q", 2**64 - 1), "damaged"),
        (pickle.NONE + b"b", "attributes"),
        (MADE + MADE + b"b", "attributes"),  # a call as the state
        (MADE + b"cos\nsystem\n", "os.system"),
        (NAMED + pickle.EMPTY_TUPLE + pickle.EMPTY_DICT + pickle.NEWOBJ_EX, "NEWOBJ_EX"),
        (pickle.BYTEARRAY8 + struct.pack("<Q", 0), "BYTEARRAY8"),
        (pickle.NEXT_BUFFER, "NEXT_BUFFER"),
        (pickle.NEXT_BUFFER + pickle.READONLY_BUFFER, "NEXT_BUFFER"),
    ],
)
def test_other_instructions_and_impossible_sizes_are_refused(instructions, name, tiny, canary):
    as_entry(tiny, Raw(instructions))
    assert name in refusal(dumps(tiny), canary)


def test_attributes_never_land_on_what_a_global_names(tiny, canary):
    as_entry(tiny, Raw(b"ccollections\nOrderedDict\n" + pickle.EMPTY_DICT + pickle.BUILD))
    assert "attributes" in refusal(dumps(tiny), canary)


def test_a_memo_number_of_four_billion_costs_nothing(tiny, canary):
    as_entry(tiny, Raw(pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff"))
    assert read(dumps(tiny), canary)


def test_endless_instructions_are_refused(canary):
    assert "1000000 instructions" in refusal(pickle.EMPTY_TUPLE * 1_000_001 + pickle.STOP, canary)


def test_deep_keys_and_deep_modules_are_refused(tiny, canary):
    as_entry(tiny, Raw(pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 200_000 + b"Ns"))
    assert "tuple as a key" in refusal(dumps(tiny), canary)
    del tiny["extra"]
    loop = unet_of(tiny)["_modules"]["map_layer0"]
    state = loop.arguments[0]["state"]
    state["_modules"]["again"] = Call(loop.callee, ({**loop.arguments[0], "state": state},))
    assert "nested deeper" in refusal(dumps(tiny), canary)


def test_modules_that_multiply_are_refused(tiny, canary):
    leaf = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    for _ in range(12):
        told = {"type": "class", "version": 6, "class_name": "M", "module_src": "", "state": leaf}
        child = Call("torch_utils.persistence._reconstruct_persistent_obj", (told,))
        leaf = {"_parameters": {}, "_buffers": {}, "_modules": {str(n): child for n in range(8)}}
    unet_of(tiny)["_modules"] = leaf["_modules"]
    assert "more than the file can hold" in refusal(dumps(tiny), canary)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (1 << 40,), (1,)),
        (1, (16, 4), (4, 1)),
        (0, (16, 4), (1 << 40, 1)),
        (0, (1 << 20, 1 << 20), (0, 0)),
        (-1, (16, 4), (4, 1)),
        (0, (16, 4), (-4, 1)),
        (0, (16, 4), (4,)),
        (0, (1,) * 9, (1,) * 9),
        (0, (0, 1 << 62, 1 << 62), (1, 1, 1)),
        (0, (1, 1), (1 << 80, 1)),
        (0.0, (16, 4), (4, 1)),
        (0, [16, 4], (4, 1)),
    ],
)
def test_tensors_beyond_their_storage_are_refused(offset, size, stride, tiny, canary):
    tensor = tensor_of(tiny)
    tensor.arguments = (tensor.arguments[0], offset, size, stride, *tensor.arguments[4:])
    assert "a tensor" in refusal(dumps(tiny), canary)


def legacy_numel(numel: int) -> bytes:
    """A storage of three elements that says it has more, in its persistent identifier."""
    whole = storage_bytes(torch.ones(3))
    assert whole.count(b"K\x03") == 1
    return whole.replace(b"K\x03", b"\x8a\x07" + numel.to_bytes(7, "little"))


def deflated() -> bytes:
    stream = io.BytesIO()
    whole = zipfile.ZipFile(io.BytesIO(storage_bytes(torch.zeros(100_000), zipped=True)))
    with whole, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    return stream.getvalue()


def doubled() -> bytes:
    """A storage with a second object beside it, which another reader might take."""
    stream = io.BytesIO(storage_bytes(torch.ones(3), zipped=True))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("other/data.pkl", dumps(Call("os.system", ("touch canary",)), 2))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (legacy_numel(1 << 40), "more than the file holds"),
        (legacy_numel(4), "not of 4 elements"),
        (storage_bytes(torch.ones(3))[:-4], "length"),
        (storage_bytes(torch.ones(3)) + b"more", "length"),
        (storage_bytes(torch.ones(3), zipped=True)[:-30], "zip"),
        (deflated(), "compressed"),
        (doubled(), "too many values"),
        (b"", "exhausted"),
        (b"noise", "damaged"),
    ],
)
def test_storages_that_lie_are_refused(content, reason, tiny, canary):
    as_storage_bytes(tiny, content)
    assert reason in refusal(dumps(tiny), canary)


@pytest.mark.parametrize(
    "scalar",
    [
        Call(SCALAR_NEW, (Call("numpy.dtype", ("O8", False, True), (3, "|")), bytes(8))),
        Call(SCALAR_NEW, (Call("numpy.dtype", ("f8", False, True), (3, "<")), bytes(4))),
        Call(SCALAR_NEW, (Call("numpy.dtype", ("f8,f8", False, True)), bytes(16))),
        Call(SCALAR_NEW, ("f8", bytes(8))),
        Call("numpy.dtype", ("f8",)),
        Named("numpy.dtype"),
        scalar_call(math.nan, SCALAR_NEW),
    ],
)
def test_other_scalars_are_refused(scalar, tiny, canary):
    state_of(tiny)["_init_kwargs"]["sigma_data"] = scalar
    refusal(dumps(tiny), canary)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.pop("ema"), "NoneType"),
        (lambda data: data["ema"].arguments[0].update(version=7), "version 7"),
        (lambda data: data["ema"].arguments[0].update(type="function"), "type function"),
        (lambda data: data["ema"].arguments[0].update(class_name="VPPrecond"), "VPPrecond"),
        (lambda data: state_of(data)["_init_kwargs"].update(model_type="DhariwalUNet"), "SongUNet"),
        (lambda data: state_of(data)["_init_kwargs"].pop("img_resolution"), "img_resolution"),
        (lambda data: state_of(data)["_init_kwargs"].update(num_blocks=10**9), "num_blocks = 1000000000"),
        (lambda data: state_of(data)["_init_kwargs"].update(channel_mult=[1] * 1000), "channel_mult"),
        (lambda data: state_of(data)["_init_kwargs"].update(surprise=1), "surprise"),
        (lambda data: state_of(data)["_init_kwargs"].update(dropout=math.inf), "dropout = inf"),
        (lambda data: state_of(data)["_init_kwargs"].update(sigma_max=-math.inf), "sigma_max = -inf"),
        (lambda data: state_of(data).pop("_parameters"), "_parameters"),
        (lambda data: unet_of(data)["_parameters"].update(w=[1.0]), "list where"),
    ],
)
def test_other_layouts_are_refused_with_what_was_met(
    change: Callable[[dict[str, Any]], object], reason: str, tiny: dict[str, Any], canary: Path
) -> None:
    change(tiny)
    assert reason in refusal(dumps(tiny), canary)


def test_control_characters_do_not_reach_the_terminal(tiny, canary):
    as_entry(tiny, Raw(b"cos\nsys\x1b[31m\x07\n"))
    message = refusal(dumps(tiny), canary)
    assert "os.sys\\x1b[31m\\x07" in message
    assert message.isprintable()


def test_truncated_files_and_noise_are_refused(tiny, canary):
    content = dumps(tiny)
    for length in [0, 1, 2, 100, len(content) // 2, len(content) - 1]:
        refusal(content[:length], canary)
    for seed in range(20):
        noise = torch.randint(0, 256, (2000,), generator=torch.Generator().manual_seed(seed))
        refusal(bytes(noise.tolist()), canary)


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(InputError, match="no readable file"):
            read_edm_pickle(path)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 3)), min_size=1, max_size=4))
def test_mutated_files_are_read_or_refused(canary, changes):
    content = bytearray(VALID_PICKLE)
    for position, value, kind in changes:
        at = position % len(content)
        if kind == 0:
            content[at] = value
        elif kind == 1:
            content[at] ^= 1 << (value % 8)
        elif kind == 2:
            content.insert(at, value)
        else:
            del content[at : at + 1 + value]
    with suppress(InputError):
        read(bytes(content), canary)


VALID_PICKLE = dumps(checkpoint(network(TINY), TINY, Path("canary")))
