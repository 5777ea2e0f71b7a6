"""A settings file that is wrong: one line with file, line, key, value and what is allowed."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dguide.settings import load_config
from discriminator_guidance.errors import ConfigError, UserError

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "configs/mini.yaml").read_text()
LINES = TEXT.splitlines()
BOMB = "b0: &b0 1\n" + "".join(f"b{n + 1}: &b{n + 1} [{', '.join([f'*b{n}'] * 9)}]\n" for n in range(12))
SECTIONS = re.split(r"\n(?=\w)", TEXT)  # reading a whole profile takes a tenth of a second


def load(folder: Path, old: str, new: str) -> tuple[str, int]:
    """The complaint about mini.yaml with one line changed, and the number of that line."""
    number = next(number for number, line in enumerate(LINES) if line.startswith(old))
    path = folder / "x.yaml"
    path.write_text("\n".join([*LINES[:number], *([new] if new else []), *LINES[number + 1 :]]))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message
    return message, number + 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  steps: 12", "  stepz: 12", ["sampler.stepz", "stepz = 12", "did you mean steps?"]),
        ("  d1: {start", "  d1: {start: models/mini/extractor, seed: 1, epoch: 40, learning_rate: 1e-3, "
         "weight_decay: 0.0, t_min: 0.1}", ["members.d1.epoch", "epoch = 40", "did you mean epochs?"]),
        ("  threads: 2", "  threads: '2'", ["runtime.threads", "got '2'", "integer"]),
        ("  steps: 12", "  steps: 1", ["sampler.steps", "got 1", "it must be at least 2 and at most 1,000"]),
        ("  p_mean", "  p_mean: .nan", ["score.p_mean", "got nan", "finite"]),
        ("  source: train               # train (from scratch on `real`)", "  source: trained",
         ["score.source", "got 'trained'", "'train', 'edm'"]),
        ("    epochs: [10, 200]", "    epochs: [10]", ["study.discriminator.epochs", "got no 1"]),
        ("  d0: {needs", "  d0: {needs: discriminator/d0, members: [d0], rule: median, weights: equal, w1: 2.0, "
         "w2: 2.0, boosting: false}", ["variants.d0.rule", "got 'median'", "mean_probability"]),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named_with_its_line(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    message, line = load(tmp_path, old, new)
    assert f"line {line};" in message
    for word in words:
        assert word in message


def test_a_missing_key_or_file_is_named(tmp_path: Path) -> None:
    assert "report in" in (message := load(tmp_path, "  dpi", "")[0])
    assert "no 'dpi'" in message
    with pytest.raises(ConfigError, match=r"absent.yaml; got no such file"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a: [1,", "line 1"), ("", "None"), ("[1]", "an object"), ("? [a]\n: 1", "keys"), ("<<: {a: 1}", "a = 1"),
     ("a: 1\na: 2", "duplicate"), ("a:\n  b: 1\n c: 2\n", "line 3"), ("[" * 1000, "recursion"),
     ('{"a":' * 90 + "1" + "}" * 90, "a = "), ("a: &a [*a]", "a = "), (BOMB, "aliases"),
     ("a: !!python/name:os.system x", "a = 'x'"), ('a: "\\ud800"', "JSON")],
)  # fmt: skip
def test_what_is_no_settings_file_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "byte string" not in str(caught.value)


def test_pipes_devices_and_huge_files_are_refused(tmp_path: Path) -> None:
    pipe, huge = tmp_path / "pipe", tmp_path / "huge"
    os.mkfifo(pipe)
    huge.write_bytes(b"#" * 2_000_000)
    for path in (pipe, huge, Path("/dev/zero"), tmp_path):
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
