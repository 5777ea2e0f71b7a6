"""A settings file that is wrong: one line with file, line, key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from discriminator_guidance.config import load_config
from discriminator_guidance.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
LINES = (PROJECT / "configs/mini.yaml").read_text().splitlines()


def load(folder: Path, old: str, new: str) -> tuple[str, int]:
    """The complaint about mini.yaml with one line changed, and the number of that line."""
    number = next(number for number, line in enumerate(LINES) if line.startswith(old))
    path = folder / "x.yaml"
    path.write_text("\n".join([*LINES[:number], *([new] if new else []), *LINES[number + 1 :]]))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.isprintable()
    assert str(path) in message
    return message, number + 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  steps: 12", "  stepz: 12", ["sampler.stepz = 12", "did you mean steps?"]),
        ("  d1: {start", "  d1: {start: models/mini/extractor, seed: 1, epoch: 40, learning_rate: 1e-3, "
         "weight_decay: 0.0, t_min: 0.1}", ["members.d1.epoch = 40", "did you mean epochs?"]),
        ("  threads: 2", "  threads: '2'", ["runtime.threads", "got '2'", "integer"]),
        ("  steps: 12", "  steps: 1", ["sampler.steps", "got 1", "greater than or equal to 2"]),
        ("  p_mean", "  p_mean: .nan", ["score.p_mean", "got nan", "finite"]),
        ("  source: train               # train (from scratch on `real`)", "  source: trained",
         ["score.source", "got 'trained'", "'train', 'edm'"]),
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
    assert "key sampler.rho" in load(tmp_path, "  rho", "")[0]
    with pytest.raises(ConfigError, match=r"absent.yaml; got no such file"):
        load_config(tmp_path / "absent.yaml")


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    "text",
    ["a: [1,", "", "a: 1\na: 2", "a: !!python/name:os.system x", ALIASES, 'a: "\\ud800"'],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_what_is_no_settings_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_member_takes_what_its_row_leaves_out_from_the_section(tmp_path: Path) -> None:
    row = "{start: models/mini/extractor, seed: 1, epochs: 4, learning_rate: 1e-3, weight_decay: 0.0, t_min: 0.1, "
    path = tmp_path / "x.yaml"
    text = (PROJECT / "configs/mini.yaml").read_text()
    path.write_text(text.replace("  s0: {start", f"  own: {row}flip: true, checkpoint: 2}}\n  s0: {{start"))
    member = load_config(path).member("own")
    assert (member.flip, member.checkpoint, member.reshuffle, member.label_smoothing) == (True, 2, True, 0.0)
    assert member.network is not None
    assert member.network.model_channels == 48
