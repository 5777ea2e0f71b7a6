"""Command `sample`: images by their seeds, alone or with others, the same as stage `guided` draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discriminator_guidance.errors import ConfigError, OutputError
from discriminator_guidance.stages import sample
from discriminator_guidance.stages.sample import parse_seeds

from .conftest import Tiny, run_stage


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_a_seed_gives_the_sample_of_that_index_in_any_company(tiny: Tiny, tmp_path: Path) -> None:
    run_stage("guided", tiny, "mean_prob")
    with np.load(tiny[1].guided("mean_prob") / "samples.npz") as arrays:
        images, index = arrays["images"].squeeze(-1).astype(int), arrays["index"].tolist()
    for out, seeds in ((tmp_path / "one", [index[9]]), (tmp_path / "many", [*index[:20], 3])):
        sample.run(*tiny, "mean_prob", seeds, out)
        assert sorted(int(path.stem) for path in out.iterdir()) == sorted(seeds)
        drawn = pixels(out / f"{index[9]}.png")
        assert np.abs(drawn - images[9]).max() <= 1  # rounding in convolutions
    assert np.abs(pixels(tmp_path / "many/000003.png") - images[9]).max() > 20
    sample.run(*tiny, "edm", [index[9]], tmp_path / "unguided")
    assert np.abs(pixels(tmp_path / f"unguided/{index[9]}.png") - images[9]).max() > 0
    sample.run(*tiny, "mean_prob", index[:20], tmp_path / "grid.png")
    assert pixels(tmp_path / "grid.png").shape == (2 * 50, 12 * 50)
    assert np.array_equal(pixels(tmp_path / "grid.png")[:48:6, :48:6], pixels(tmp_path / f"many/{index[0]}.png"))


def test_lists_of_seeds() -> None:
    assert parse_seeds("3, 5-7,6") == [3, 5, 6, 7]
    for text in ("", "a", "7-5", "-3", "1-", "0-99999999", "9223372036854775807", "1" * 30):
        with pytest.raises(ConfigError, match=r"seeds below 2\^63 such as 0-63 or 3,5-7; got .*; correct --seeds"):
            parse_seeds(text)


def test_an_output_that_cannot_be_written_is_refused_before_sampling(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "open_variant", lambda *_: pytest.fail("networks were loaded"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for name, words in (("folder.png", "a file .*folder.png"), ("file", "a folder .*file")):
        with pytest.raises(OutputError, match=words):
            sample.run(*tiny, "edm", [0], tmp_path / name)
    with pytest.raises(ConfigError, match="at most 72 seeds in a grid; got 73"):
        sample.run(*tiny, "edm", range(73), tmp_path / "grid.png")
