"""Whatever is in a settings file, it is read or refused in one line."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discriminator_guidance.config import load_config
from discriminator_guidance.errors import UserError
from tests.config.settings import MINI, PROJECT

few = settings(max_examples=20, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([0, 2**40, "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
TEXT = (PROJECT / "configs/mini.yaml").read_text()
# Single sections: reading a whole profile takes a tenth of a second.
STARTS = [0, *(TEXT.index(f"\n{key}:") + 1 for key in list(MINI)[1:]), len(TEXT)]
SECTIONS = [TEXT[start:end].encode() for start, end in pairwise(STARTS)]
TAGS = ["", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!own ", "!!python/name:os.system "]
WORDS = ["abc", "''", "-", "0x", "1:99", "1e999999", "2001-99-99", "9" * 5000, "*a", "<<", "=", '"\\ud800"']
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 9)), min_size=1, max_size=4)


def paths(data: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key of nested mappings and lists."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, entry in items for found in [(*path, key), *paths(entry, (*path, key))]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "params.yaml"


def survives(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        load_config(file)
    except UserError as error:
        refusal = error
    else:
        return
    assert refusal.remedy
    assert str(refusal).isprintable()
    assert len(str(refusal)) < 3000


@few
@given(st.lists(st.tuples(st.sampled_from(paths(MINI)), VALUES, st.booleans()), min_size=1, max_size=3))
def test_values(file: Path, edits: list[tuple[tuple[Any, ...], Any, bool]]) -> None:
    data = copy.deepcopy(MINI)
    for path, value, remove in edits:
        place: Any = data
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit took it away
        if remove:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    survives(file, json.dumps(data).encode())


@settings(few, max_examples=80)
@given(st.sampled_from(SECTIONS), EDITS)
def test_bytes(file: Path, section: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    for position, inserted, removed in edits:
        start = position % (len(section) + 1)
        section = section[:start] + inserted + section[start + removed :]
    survives(file, section)


@settings(few, max_examples=80)
@given(st.sampled_from(list(MINI)), st.sampled_from(TAGS), st.sampled_from(WORDS) | st.text(max_size=6))
def test_tags_and_scalars(file: Path, key: str, tag: str, scalar: str) -> None:
    survives(file, f"{key}: {tag}{scalar}\n".encode("utf-8", "surrogatepass"))
