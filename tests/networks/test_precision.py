"""Devices and floating-point formats as settings ask for them and machines have them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from discriminator_guidance import ranks
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks import precision
from discriminator_guidance.networks.blocks import Conv2d
from discriminator_guidance.networks.precision import WIDE, Compute, resolve_compute, unused_gpu
from discriminator_guidance.stages.context import prepare_compute


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine look like another: with CUDA or not, with bfloat16 on GPU and CPU or not."""

    def look(cuda: bool, bfloat16: tuple[bool, bool]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16[0])
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16[1])

    return look


@pytest.fixture(autouse=True)
def switches():
    """Global switches as torch sets them, back in place afterwards."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before, threads = [place.allow_tf32 for place in places], torch.get_num_threads()
    deterministic = torch.backends.cudnn.deterministic
    for place, allowed in zip(places, (False, True), strict=True):
        place.allow_tf32 = allowed
    yield
    for place, allowed in zip(places, before, strict=True):
        place.allow_tf32 = allowed
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic


@pytest.mark.parametrize(
    ("device", "precision", "cuda", "bfloat16", "place", "mode"),
    [
        ("auto", "float32", True, (True, True), "cuda", "float32"),
        ("auto", "float32", False, (True, True), "cpu", "float32"),
        ("cpu", "float32", True, (True, True), "cpu", "float32"),
        ("auto", "auto", True, (True, False), "cuda", "bfloat16"),
        ("auto", "auto", True, (False, True), "cuda", "float32"),
        ("cpu", "auto", True, (True, False), "cpu", "float32"),
        ("auto", "auto", False, (False, True), "cpu", "bfloat16"),
        ("cpu", "bfloat16", False, (False, False), "cpu", "bfloat16"),
        ("auto", "tf32", True, (False, False), "cuda", "tf32"),
    ],
)
def test_what_settings_become_on_a_machine(machine, device, precision, cuda, bfloat16, place, mode):
    machine(cuda, bfloat16)
    assert resolve_compute(device, precision) == Compute(torch.device(place), mode)


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [
        ("cuda", "float32", "a CUDA device, as runtime.device says; got none; choose runtime.device: auto or cpu"),
        ("cuda", "tf32", "a CUDA device"),
        ("auto", "tf32", "precision tf32 on a CUDA device; got device cpu; choose float32 or auto"),
        ("cpu", "tf32", "precision tf32 on a CUDA device; got device cpu"),
    ],
)
def test_what_a_machine_without_cuda_cannot_is_one_line(machine, device, precision, words):
    machine(False, (False, False))
    with pytest.raises(ConfigError) as caught:
        resolve_compute(device, precision)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "cuda", "driver", "told"),
    [
        ("auto", False, True, True),
        ("auto", False, False, False),
        ("auto", True, True, False),
        ("cpu", False, True, False),
    ],
)
def test_a_gpu_that_this_torch_cannot_use_is_told_of(machine, monkeypatch, tmp_path, device, cuda, driver, told):
    machine(cuda, (False, False))
    monkeypatch.setattr(precision, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "none")
    said = unused_gpu(device)
    assert (said is not None) == told
    assert said is None or f"this PyTorch ({torch.__version__}) cannot use it: computing on the CPU" in said


@pytest.mark.parametrize("mode", ["float32", "tf32", "bfloat16"])
def test_only_bfloat16_changes_the_format_of_inner_products(mode):
    x = torch.ones(2, 2)
    with Compute(torch.device("cpu"), mode).autocast():
        product = x @ x
    assert product.dtype == (torch.bfloat16 if mode == "bfloat16" else torch.float32)
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "auto"])
def test_factors_are_rounded_in_mode_tf32_alone(machine, precision):
    """Whatever torch's own default: full precision in a run of bfloat16 is full, too."""
    machine(True, (True, True))
    prepare_compute("auto", precision, 1)
    found = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert found == ((True, True) if precision == "tf32" else (False, False))


def test_convolutions_on_a_gpu_are_asked_for_the_same_bytes_each_time(machine):
    machine(True, (True, True))
    torch.backends.cudnn.deterministic = False
    prepare_compute("auto", "float32", 1)
    assert torch.backends.cudnn.deterministic


def test_a_gpu_is_named_and_a_cpu_is_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model of {device}")
    assert Compute(torch.device("cuda", 1), "float32").record() == {"device": "model of cuda:1"}
    assert Compute(torch.device("cpu"), "float32").record() == {}


def test_a_network_in_place_is_frozen_and_its_kernels_have_the_format_of_the_mode():
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(2), nn.Conv1d(4, 1, 1))
    for mode, kernel in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        compute = Compute(torch.device("cpu"), mode)
        network = compute.place(copy.deepcopy(made))
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert [network[place].weight.dtype for place in (0, 1, 3)] == [kernel, torch.float32, kernel]
        x = torch.randn(2, 3, 8, 8)
        with compute.autocast():
            torch.testing.assert_close(network(x).float(), made(x).float(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("mode", "forward_only", "width", "device", "last"),
    [
        ("bfloat16", False, WIDE, "cpu", True),
        ("bfloat16", False, WIDE // 2, "cpu", False),
        ("bfloat16", False, WIDE, "meta", False),  # meta: whatever is no CPU
        ("float32", False, WIDE, "cpu", False),
        ("float32", True, WIDE, "cpu", True),
        ("float32", True, WIDE // 2, "cpu", False),
        ("float32", True, WIDE, "meta", False),
    ],
)
def test_only_wide_networks_on_a_cpu_have_channels_last(mode, forward_only, width, device, last):
    kernel = Compute(torch.device(device), mode).place(nn.Conv2d(8, width, 3), forward_only).weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.parametrize(
    ("mode", "forward_only", "width", "units", "less"),
    [
        ("float32", True, WIDE, False, torch.float32),
        ("float32", True, WIDE, True, torch.float32),
        ("float32", False, WIDE, False, None),
        ("float32", True, WIDE // 2, False, None),
        ("bfloat16", True, WIDE, False, torch.bfloat16),
        ("bfloat16", True, WIDE, True, None),
        ("bfloat16", False, WIDE, False, None),
    ],
)
def test_wide_networks_without_gradients_multiply_less(mode, forward_only, width, units, less, monkeypatch):
    monkeypatch.setattr(precision, "_has_matrix_units", lambda: units)
    made = nn.Sequential(Conv2d(8, width, 3))
    compute = Compute(torch.device("cpu"), mode)
    network = compute.place(copy.deepcopy(made), forward_only)
    assert (network[0]._kernels[0].dtype if network[0]._kernels else None) == less
    x = torch.randn(2, 8, 4, 4)
    with compute.autocast(), torch.no_grad():
        torch.testing.assert_close(network(x).float(), made(x).float(), atol=0.05, rtol=0.05)


def test_each_rank_has_a_gpu_of_its_own(machine, monkeypatch):
    machine(True, (True, True))
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(ranks, "_crew", ranks._Crew(rank=5, size=6, local=1))
    assert resolve_compute("auto", "float32").device == torch.device("cuda", 1)
    assert chosen == [1]
    assert resolve_compute("cpu", "float32").device == torch.device("cpu")
    monkeypatch.setattr(ranks, "_crew", ranks._Crew(rank=2, size=3, local=2))
    with pytest.raises(ConfigError, match=r"a GPU for each rank of .*; got 2 of them and rank 2; start 2 ranks"):
        resolve_compute("cuda", "float32")
