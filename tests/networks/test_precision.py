"""Devices and floating-point formats as settings ask for them and machines have them."""

import pytest
import torch

from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.runtime import Compute, prepare


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine look like another: with CUDA or not, with bfloat16 on GPU and CPU or not."""

    def look(cuda: bool, bfloat16: tuple[bool, bool]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        if cuda:  # nothing can be put there
            monkeypatch.setattr(torch, "empty", lambda *size, **where: torch.zeros(size))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _: bfloat16[0])
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16[1])

    return look


@pytest.fixture(autouse=True)
def switches():
    """Global switches as torch sets them, and back afterwards."""
    holders = torch.backends.cuda.matmul, torch.backends.cudnn
    before, threads = [holder.allow_tf32 for holder in holders], torch.get_num_threads()
    deterministic = torch.backends.cudnn.deterministic
    for holder, allowed in zip(holders, (False, True), strict=True):
        holder.allow_tf32 = allowed
    yield
    for holder, allowed in zip(holders, before, strict=True):
        holder.allow_tf32 = allowed
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic


@pytest.mark.parametrize(
    ("device", "precision", "cuda", "bfloat16", "expected", "mode"),
    [
        ("cpu", "float32", True, (True, True), "cpu", "float32"),
        ("auto", "auto", True, (True, False), "cuda", "bfloat16"),
        ("auto", "auto", True, (False, True), "cuda", "float32"),
        ("auto", "auto", False, (False, True), "cpu", "bfloat16"),
        ("cpu", "bfloat16", False, (False, False), "cpu", "bfloat16"),
        ("auto", "tf32", True, (False, False), "cuda", "tf32"),
    ],
)
def test_what_settings_become_on_a_machine(machine, device, precision, cuda, bfloat16, expected, mode):
    machine(cuda, bfloat16)
    assert prepare(device, precision, 1) == Compute(torch.device(expected), mode)
    allowed = {torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32}
    assert allowed == {mode == "tf32"}, "whatever torch's own default"


def test_each_process_has_a_gpu_of_its_own(machine, monkeypatch):
    machine(True, (True, True))
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")  # and neither RANK nor WORLD_SIZE where a process works apart
    assert prepare("auto", "float32", 1).device == torch.device("cuda", 1)
    assert chosen == [1]
    assert prepare("cpu", "float32", 1).device == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="3 processes or more for 2 GPUs; start 2"):
        prepare("cuda", "float32", 1)
