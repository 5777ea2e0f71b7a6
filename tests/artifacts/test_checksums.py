"""Checksums in a file: any change is seen, sha256sum reads them, nothing outside the folder is named."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from discriminator_guidance.artifacts.checksums import read_checksums, write_checksums
from discriminator_guidance.artifacts.files import sha256
from discriminator_guidance.errors import InputError


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    files = [tmp_path / "cells.csv", tmp_path / "effects.png"]
    for file in files:
        file.write_bytes(file.name.encode())
    write_checksums(tmp_path / "factorial.sha256", files)
    return tmp_path / "factorial.sha256"


def test_what_is_written_is_read(sums: Path) -> None:
    assert read_checksums(sums) == {name: sha256(sums.with_name(name)) for name in ("cells.csv", "effects.png")}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_the_program_of_that_name_reads_it(sums: Path) -> None:
    def check() -> int:
        return subprocess.run(["sha256sum", "--check", sums.name], cwd=sums.parent, capture_output=True).returncode

    assert check() == 0
    sums.with_name("cells.csv").write_bytes(b"other")
    assert check() == 1


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 64, "0" * 64 + "  ../cells.csv\n", "0" * 64 + "  /etc/passwd\n", "0" * 63 + "  a\n", "\xff"]
)
def test_other_lines_are_refused(sums: Path, text: str) -> None:
    sums.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="checksums in"):
        read_checksums(sums)
