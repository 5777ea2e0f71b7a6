"""Whatever is in a settings file, it is read or refused as a mistake of its writer."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discriminator_guidance.config import load_config
from discriminator_guidance.errors import UserError
from tests.config.settings import MINI, PROJECT

TEXT = (PROJECT / "configs/mini.yaml").read_text()
# Single sections: reading a whole profile takes a tenth of a second.
STARTS = [0, *(TEXT.index(f"\n{key}:") + 1 for key in list(MINI)[1:]), len(TEXT)]
SECTIONS = [TEXT[start:end].encode() for start, end in pairwise(STARTS)]
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 9)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "params.yaml"


@settings(max_examples=80, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SECTIONS), EDITS)
def test_changed_bytes_are_read_or_refused(file: Path, section: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    for position, inserted, removed in edits:
        start = position % (len(section) + 1)
        section = section[:start] + inserted + section[start + removed :]
    file.write_bytes(section)
    with suppress(UserError):
        load_config(file)
