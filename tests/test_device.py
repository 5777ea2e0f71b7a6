"""No stage, nor the library, mixes tensors of its device with those of the CPU."""

import sys
from pathlib import Path

import pytest

from .commands import PROJECT, succeed


def test_everything_computes_on_one_device(tmp_path: Path) -> None:
    pytest.importorskip("torch", "2.10", reason="needs torch 2.10: earlier ones have no devices in Python")
    succeed(PROJECT, sys.executable, "-m", "tests.remote", str(tmp_path))
