"""A result with a checksum: nothing but what was written is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from discriminator_guidance.artifacts.sealed_json import is_damaged, read_sealed, write_sealed

RESULT = {"fid": 4.345533641556187, "n": 300, "rows": {"d0": {"loss": 0.1}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "cells" / "one" / "cell.json"
    path.parent.mkdir(parents=True)
    path.with_name("influence.npz").write_bytes(b"numbers")
    write_sealed(path, RESULT, beside=["influence.npz"])
    return path


def test_what_is_read_is_what_was_written_wherever_the_project_is(path: Path, tmp_path: Path) -> None:
    assert read_sealed(path) == RESULT
    assert not is_damaged(path)
    moved = (tmp_path / "project").rename(tmp_path / "elsewhere")
    assert read_sealed(moved / "cells" / "one" / "cell.json") == RESULT


def test_no_flipped_bit_changes_a_result_or_goes_unnoticed(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            found = read_sealed(path)
            assert found == RESULT if found is not None else is_damaged(path), (place, bit)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"sha256": 1, "beside": 2}', '{"sha256": 1}'])
def test_what_is_no_result_is_damaged(path: Path, text: str) -> None:
    path.write_text(text)
    assert read_sealed(path) is None
    assert is_damaged(path)


@pytest.mark.parametrize("content", [b"Numbers", None])
def test_another_file_beside_it_is_noticed(path: Path, content: bytes | None) -> None:
    beside = path.with_name("influence.npz")
    beside.unlink() if content is None else beside.write_bytes(content)
    assert read_sealed(path) is None
    assert is_damaged(path)


def test_the_result_of_another_is_not_taken(path: Path) -> None:
    other = path.parent.with_name("other") / path.name
    shutil.copytree(path.parent, other.parent)
    assert read_sealed(other) is None
    assert is_damaged(other)


def test_a_result_of_before_there_were_checksums_is_no_damage_and_not_read(path: Path) -> None:
    path.write_text(json.dumps(RESULT))
    assert read_sealed(path) is None
    assert not is_damaged(path)
    path.unlink()
    assert read_sealed(path) is None
