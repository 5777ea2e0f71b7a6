"""ADM and DG state dicts: exact in both formats, their network derived from shapes, anything else refused."""

import io
import pickle
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from discriminator_guidance.checkpoints.adm_checkpoint import derive_arguments, read_adm, read_state_dict
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import fit_network
from discriminator_guidance.networks.adm import CHANNEL_MULT, EncoderUNet, build_head

from .lookalike import Call, dumps

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture
def head() -> EncoderUNet:
    torch.manual_seed(0)
    return build_head((8, 2, 2), model_channels=8, num_res_blocks=1, num_head_channels=8, condition=True)


def saved(value: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert len(message) < 500
    return message


@FORMATS
def test_both_formats_are_read_exactly(zipped, head, tmp_path):
    original = OrderedDict(head.state_dict(), half=torch.ones(2, 3).half())
    state = read_state_dict(saved(original, tmp_path / "d.pt", zipped))
    assert list(state) == list(original)
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())
    assert state["half"].dtype == torch.float16


@pytest.mark.parametrize(
    ("arguments", "attention", "condition"),
    [((32, 3, 128, 1000, 4), [1, 2, 4], False), ((8, 512, 128, 1, 2), [1], True), ((64, 3, 64, 10, 1), [4], False)],
    ids=["classifier", "discriminator", "one attention"],
)
def test_shapes_describe_the_network(arguments, attention, condition):
    with torch.device("meta"):
        state = EncoderUNet(*arguments, attention, CHANNEL_MULT[arguments[0]], condition=condition).state_dict()
        described = derive_arguments(state)
        again = EncoderUNet(**described).state_dict()
    names = ("image_size", "in_channels", "model_channels", "out_channels", "num_res_blocks")
    assert tuple(described[name] for name in names) == arguments
    assert described["attention_resolutions"] == attention
    assert described["channel_mult"] == list(CHANNEL_MULT[arguments[0]])
    assert described["condition"] is condition
    assert {name: tensor.shape for name, tensor in again.items()} == {name: t.shape for name, t in state.items()}


@pytest.mark.parametrize(
    ("name", "shape", "got"),
    [
        ("time_embed.0.weight", None, r"it has no .time_embed\.0\.weight"),
        ("out.2.positional_embedding", (8, 7), "7 positions"),
        ("input_blocks.900.0.in_layers.2.weight", (1,), r"it has no .input_blocks\.18"),
    ],
)
def test_another_layout_is_refused(head, name, shape, got, tmp_path):
    state = {key: tensor for key, tensor in head.state_dict().items() if key != name}
    state |= {} if shape is None else {name: torch.ones(shape)}
    torch.save(state, tmp_path / "head.pt")
    with pytest.raises(InputError, match=got):
        read_adm(tmp_path / "head.pt")


def test_tensors_that_do_not_fit_are_named(head):
    state = dict(head.state_dict())
    arguments = derive_arguments(state, 8)
    fit_network(EncoderUNet, arguments, state, "a file", "get it again")
    state["extra\n\x1b"] = state.pop("middle_block.0.in_layers.0.weight")
    with pytest.raises(InputError, match=r"middle_block\.0\.in_layers\.0\.weight") as caught:
        fit_network(EncoderUNet, arguments, state, "a file", "get it again")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["os.system", "builtins.getattr"])
@FORMATS
def test_other_globals_are_refused_by_name_and_never_run(name, zipped, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "d.pt"
    poison = dumps(OrderedDict(a=[({"b": Call(name, (f"touch {canary}",))},)]), 2)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("d/data.pkl", poison)
            archive.writestr("d/version", "3\n")
    else:
        start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(start + poison + pickle.dumps([], 2))
    assert name.rpartition(".")[2] in refusal(path)
    assert not canary.exists()


@FORMATS
@pytest.mark.parametrize(
    ("value", "got"),
    [
        ({}, "nothing"),
        ({"w": torch.ones(2), "epoch": 3}, "int under epoch"),
        ({"w": torch.ones(1).expand(10_000)}, "its tensors have 40,000 bytes, and the file"),
        ({"w": nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear"),
    ],
)
def test_other_contents_are_refused_with_what_was_met(value, got, zipped, tmp_path):
    assert got in refusal(saved(value, tmp_path / "d.pt", zipped))


def content_of(state: dict[str, torch.Tensor], zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


VALID = {zipped: content_of({"a": torch.ones(2, 3), "b": torch.arange(4)}, zipped) for zipped in (True, False)}
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), CHANGES)
def test_mutated_files_are_read_or_refused(tmp_path, zipped, changes):
    content = bytearray(VALID[zipped])
    for position, value, replace in changes:
        at = position % len(content)
        content[at : at + replace] = bytes([value])
    (tmp_path / "d.pt").write_bytes(content)
    with suppress(InputError):
        assert all(tensor.numel() <= len(content) for tensor in read_state_dict(tmp_path / "d.pt").values())
