"""ADM and DG state dicts: exact in both formats, their network told by shapes, mismatches listed plainly."""

from __future__ import annotations

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

from discriminator_guidance.artifacts.adm_checkpoint import check_fit, derive_arguments, read_adm_checkpoint
from discriminator_guidance.errors import InputError
from discriminator_guidance.networks.adm import EncoderUNet, build_head, create_classifier
from tests.artifacts.lookalike import Call, dumps

REFUSED = ["os.system", "posix.system", "builtins.eval", "subprocess.Popen", "torch.storage._load_from_bytes"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def head() -> EncoderUNet:
    return build_head((8, 2, 2), model_channels=8, num_res_blocks=1, num_head_channels=8, condition=True)


def saved(value: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_adm_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_formats_are_read_exactly(zipped, head, tmp_path):
    original = head.state_dict()
    assert hasattr(original, "_metadata")
    state = read_adm_checkpoint(saved(original, tmp_path / "d.pt", zipped))
    assert list(state) == list(original)
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_an_ordinary_dictionary_with_parameters_of_half_precision(zipped, tmp_path):
    state = read_adm_checkpoint(saved({"w": torch.ones(2, 3).half()}, tmp_path / "d.pt", zipped))
    assert state["w"].dtype == torch.float16


def classifier(size: int, channels: int, logits: int, width: int, depth: int, **options: Any) -> EncoderUNet:
    with torch.device("meta"):
        return create_classifier(size, channels, logits, width, depth, **options)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            classifier(32, 3, 1000, 128, 4),
            {
                "image_size": 32,
                "in_channels": 3,
                "model_channels": 128,
                "out_channels": 1000,
                "num_res_blocks": 4,
                "attention_resolutions": [1, 2, 4],
                "channel_mult": [1, 2, 4],
                "num_head_channels": 64,
                "condition": False,
            },
        ),
        (
            classifier(8, 512, 1, 128, 2, condition=True),
            {
                "image_size": 8,
                "in_channels": 512,
                "model_channels": 128,
                "out_channels": 1,
                "num_res_blocks": 2,
                "attention_resolutions": [1],
                "channel_mult": [1],
                "num_head_channels": 64,
                "condition": True,
            },
        ),
        (
            classifier(64, 3, 10, 64, 1, classifier_attention_resolutions="16"),
            {
                "image_size": 64,
                "in_channels": 3,
                "model_channels": 64,
                "out_channels": 10,
                "num_res_blocks": 1,
                "attention_resolutions": [4],
                "channel_mult": [1, 2, 3, 4],
                "num_head_channels": 64,
                "condition": False,
            },
        ),
    ],
    ids=["classifier", "discriminator", "one-attention"],
)
def test_the_network_is_told_by_shapes(network: nn.Module, expected: dict[str, Any]) -> None:
    state = network.state_dict()
    found = derive_arguments(state, "a file")
    assert found == expected
    with torch.device("meta"):
        again = EncoderUNet(**found).state_dict()
    check_fit({name: tuple(tensor.shape) for name, tensor in again.items()}, state, "a file")


def test_released_multipliers_settle_an_ambiguity():
    # Without attention, blocks of equal width could be one level of five, two of two or three of one.
    with torch.device("meta"):
        network = EncoderUNet(8, 4, 64, 1, num_res_blocks=5, attention_resolutions=[], channel_mult=[1])
    assert derive_arguments(network.state_dict(), "a file")["num_res_blocks"] == 5
    with torch.device("meta"):
        network = EncoderUNet(16, 4, 64, 1, num_res_blocks=5, attention_resolutions=[], channel_mult=[1])
    with pytest.raises(InputError, match="5 input blocks whose shapes fit 3 networks"):
        derive_arguments(network.state_dict(), "a file")


def test_another_layout_names_what_is_missing(head):
    with pytest.raises(InputError, match=r"no time_embed\.0\.weight in it"):
        derive_arguments({"module." + name: tensor for name, tensor in head.state_dict().items()}, "a file")
    state = {**head.state_dict(), "out.2.positional_embedding": torch.ones(8, 7)}
    with pytest.raises(InputError, match="7 positions"):
        derive_arguments(state, "a file")


def test_mismatches_are_counted_and_named(head):
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    state = dict(head.state_dict())
    check_fit(expected, state, "a file")
    for name in [name for name in state if name.startswith("middle_block.0")]:
        state[f"extra.{name}\n\x1b"] = state.pop(name)
    state["out.0.weight"] = torch.ones(3)
    with pytest.raises(InputError) as caught:
        check_fit(expected, state, "a file")
    message = str(caught.value)
    assert "10 missing (middle_block.0.in_layers.0.weight, " in message
    assert "10 unexpected (extra.middle_block.0.in_layers.0.weight\\n\\x1b, " in message
    assert "1 of the wrong shape (out.0.weight (3,) for (8,))" in message
    assert message.isprintable()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_other_globals_are_refused_by_name(name, zipped, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "d.pt"
    poison = dumps(OrderedDict(a=[({"b": Call(name, (f"touch {canary}",))},)]), 2)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("d/data.pkl", poison)
    else:
        start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(start + poison + pickle.dumps([], 2))
    assert name in refusal(path)
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "nothing"),
        ([torch.ones(2)], "a list"),
        ({"state_dict": {"w": torch.ones(2)}}, "dict under state_dict"),
        ({"w": torch.ones(2), "epoch": 3}, "int under epoch"),
        ({"w": torch.ones(1).expand(100)}, "beyond its storage"),
        ({"w": torch.ones(2), "step": 10**9}, "more than the file holds"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
        ({"w": nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear"),
        ({"w": torch.ones(2).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_other_contents_are_refused_with_what_was_met(value, reason, zipped, tmp_path):
    assert reason in refusal(saved(value, tmp_path / "d.pt", zipped))


def test_many_views_of_one_storage_are_refused(tmp_path):
    whole = torch.ones(10_000)
    state = {f"w{n}": whole[:] for n in range(50)}
    assert "larger than the file" in refusal(saved(state, tmp_path / "d.pt"))


def test_a_zip_that_lies_about_a_storage_is_refused(head, tmp_path):
    source, path = saved(head.state_dict(), tmp_path / "d.pt"), tmp_path / "short.pt"
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as short:
        for entry in whole.infolist():
            content = whole.read(entry)
            short.writestr(entry.filename, content[:-4] if entry.filename.endswith("data/0") else content)
    assert "storage 0 of 256 elements in 1020 bytes" in refusal(path)


def test_truncated_files_and_noise_are_refused(head, tmp_path):
    path = tmp_path / "d.pt"
    for zipped in (True, False):
        content = saved(head.state_dict(), path, zipped).read_bytes()
        for length in [0, 1, 4, 100, len(content) // 2, len(content) - 1]:
            path.write_bytes(content[:length])
            refusal(path)
    path.write_bytes(bytes(torch.randint(0, 256, (3000,)).tolist()))
    refusal(path)
    far = bytearray(VALID[True])
    far[-43] = 0x90  # the highest byte of where the zip's directory begins
    path.write_bytes(far)
    assert "impossible" in refusal(path)
    path.unlink()
    assert "no readable file" in refusal(path)


def valid(zipped: bool) -> bytes:
    stream = io.BytesIO()
    state = OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.arange(4))
    torch.save(state, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


VALID = {zipped: valid(zipped) for zipped in (True, False)}
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.booleans()), min_size=1, max_size=4)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.booleans(), CHANGES)
def test_mutated_files_are_read_or_refused(tmp_path, zipped, changes):
    content = bytearray(VALID[zipped])
    for position, value, insert in changes:
        at = position % len(content)
        content[at : at + (not insert)] = bytes([value])
    path = tmp_path / "d.pt"
    path.write_bytes(content)
    with suppress(InputError):
        assert all(tensor.numel() <= len(content) for tensor in read_adm_checkpoint(path).values())
