"""A settings file that is wrong: one line with file, line, key, value and what is allowed."""

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dguide.settings import load_config
from discriminator_guidance.core.errors import ConfigError, UserError

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "configs/mini.yaml").read_text()
LINES = TEXT.splitlines()
BOMB = "b0: &b0 1\n" + "".join(f"b{n + 1}: &b{n + 1} [{', '.join([f'*b{n}'] * 9)}]\n" for n in range(12))
SECTIONS = re.split(r"\n(?=\w)", TEXT)  # reading a whole profile takes a tenth of a second


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  steps: 12", "  stepz: 12", ["sampler.stepz", "is 12", "did you mean steps?"]),
        ("  d0: {start", "  d0: {epoch_factor: 2}", ["members.d0.epoch_factor", "only its own section has it"]),
        ("  d1: {start", "  d1: {start: models/mini/extractor, epoch: 40}", ["members.d1.epoch", "epochs?"]),
        ("  threads: 2", "  threads: '2'", ["runtime.threads", "is '2'", "integer"]),
        ("  steps: 12", "  steps: 1", ["sampler.steps", "is 1;", "it must be at least 2 and at most 1,000"]),
        ("  p_mean", "  p_mean: .nan", ["score.p_mean", "is nan", "finite"]),
        ("  source: train               # train (from", "  source: trained", ["score.source", "'trained'", "'edm'"]),
        ("    epochs: [10, 200]", "    epochs: [10]", ["study.discriminator.epochs", "has no entry 1"]),
        ("  d0: {needs", "  d0: {needs: score, rule: median}", ["variants.d0.rule", "is 'median'", "mean_prob"]),
        ("  dpi", "", ["report", "has no entry 'dpi'"]),
        ("profile: mini", "profile: raw", ["profile", "is 'raw'", "choose another name"]),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    number = next(number for number, line in enumerate(LINES) if line.startswith(old))
    path = tmp_path / "x.yaml"
    path.write_text("\n".join([*LINES[:number], new, *LINES[number + 1 :]]))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    place = f"{path}, line {number + 1}," if new else f"{path}, line"
    assert all(word in str(caught.value) for word in [place, *words]), str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a: [1,", "line 1"), ("", "None"), ("[1]", "an object"), ("? [a]\n: 1", "keys"), ("<<: {a: 1}", "is 1 "),
     ("a: 1\na: 2", "duplicate"), ("a:\n  b: 1\n c: 2\n", "line 3"), ("[" * 1000, "recursion"),
     ('{"a":' * 90 + "1" + "}" * 90, "a in"), ("a: &a [*a]", "is [None] "), (BOMB, "aliases"),
     ("a: !!python/name:os.system x", "is 'x'"), ('a: "\\ud800"', "JSON"), ("a: \0", "is no YAML")],
)  # fmt: skip
def test_what_is_no_settings_file_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "byte string" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(ConfigError, match=f"{path}"):
            load_config(path)


@settings(max_examples=80, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SECTIONS), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), max_size=4))
def test_changed_bytes_are_read_or_refused(tmp_path: Path, section: str, edits: list[tuple[int, bytes]]) -> None:
    content = section.encode()
    for position, inserted in edits:
        start = position % (len(content) + 1)
        content = content[:start] + inserted + content[start + position % 10 :]
    (tmp_path / "x.yaml").write_bytes(content)
    with suppress(UserError):
        load_config(tmp_path / "x.yaml")
