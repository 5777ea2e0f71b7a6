"""Figures as bytes: small for lines, whole for pictures, the same every time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from discriminator_guidance.report.drawing import logarithmic, new_figure, png


def line(pictures: bool, note: str = "") -> bytes:
    figure = new_figure(3.0, 2.0)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    if pictures:
        axes.imshow(np.random.default_rng(0).random((8, 8, 3)))
    return png(figure, 60, note)


def test_lines_have_a_palette_and_the_same_bytes_every_time() -> None:
    with Image.open(io.BytesIO(line(False))) as image:
        assert (image.mode, image.size) == ("P", (180, 120))
        assert "Software" not in image.info
    assert line(False) == line(False)


def test_pictures_keep_every_colour() -> None:
    with Image.open(io.BytesIO(line(True))) as image:
        assert image.mode == "RGBA"


@pytest.mark.parametrize("pictures", [False, True])
def test_a_note_stands_below_a_figure_that_is_otherwise_the_same(pictures: bool) -> None:
    sizes = []
    for note in ("", "JPEG", "JPEG re-encoded, " * 9):
        assert line(pictures, note) == line(pictures, note)
        with Image.open(io.BytesIO(line(pictures, note))) as image:
            sizes.append(image.size)
            drawn = np.asarray(image.convert("RGB")).astype(int)
        if not note:
            plain = drawn
            continue
        assert np.abs(drawn[:120] - plain).max() <= (0 if pictures else 16)  # another choice of 256 colours
        below = (drawn[120:] < 200).any(axis=(0, 2))  # columns with ink
        assert below.any()
        assert not below[-4:].any(), "no letter is cut off at the right"
    assert [width for width, _ in sizes] == [180] * 3
    assert sizes[0][1] < sizes[1][1] < sizes[2][1], "a long note takes several lines"


def test_numbers_of_a_logarithmic_axis_are_plain() -> None:
    figure = new_figure(3.0, 2.0)
    axes = figure.subplots()
    axes.plot([1e-5, 100.0], [0, 1])
    logarithmic(axes)
    figure.canvas.draw()
    labels = {label.get_text() for label in axes.get_xticklabels()}
    assert {"1e-4", "0.01", "100"} <= labels
    assert not any("$" in label for label in labels)
