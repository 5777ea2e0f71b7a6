"""Command `sample`: samples of a variant by their seeds, as PNG files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from discriminator_guidance import progress
from discriminator_guidance.data.images import GRID_COLUMNS, GRID_ROWS, write_grid, write_png
from discriminator_guidance.errors import ConfigError, OutputError
from discriminator_guidance.stages.sampling import open_variant

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.layout import Layout

MOST, LARGEST = 10**6, 2**63 - 1  # seeds of a command, and the largest seed of a random stream


def parse_seeds(text: str) -> list[int]:
    """The numbers of a list like "0-63" or "3,5-7", each once."""
    parts = [re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", part.strip()) for part in text.split(",")]
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    count = sum(map(len, ranges))
    if None in parts or not 1 <= count <= MOST or max(part.stop for part in ranges) > LARGEST:
        raise ConfigError(f"1 to {MOST:,} seeds below 2^63 such as 0-63 or 3,5-7", repr(text), "correct --seeds")
    return list(dict.fromkeys(chain(*ranges)))


def run(config: Config, layout: Layout, variant: str, seeds: Sequence[int], out: Path) -> None:
    """Write `<seed>.png` of each seed in the folder `out`, or one grid of all where `out` ends in .png.

    Seed i gives sample i of stage `guided`, whatever it is drawn with, up to rounding.
    """
    grid = out.suffix.lower() == ".png"
    if grid and len(seeds) > GRID_COLUMNS * GRID_ROWS:
        found = f"{len(seeds)} seeds"
        raise ConfigError(f"at most {GRID_COLUMNS * GRID_ROWS} seeds in a grid", found, "let --out be a folder")
    if out.exists() and out.is_dir() == grid:
        raise OutputError(f"{'a file' if grid else 'a folder'} {out}", "the other", "choose another --out")
    opened, size, drawn = open_variant(config, layout, config.variants[variant]), config.guided.batch_size, []
    with progress.bar(f"samples of {variant}", len(seeds), "images") as advance:
        for batch in (seeds[start : start + size] for start in range(0, len(seeds), size)):
            images = opened.draw(config.guided.seed, batch)["images"]
            if grid:
                drawn.append(images)
            else:
                for seed, image in zip(batch, images, strict=True):
                    write_png(out / f"{seed:06d}.png", image)
            advance(len(batch))
    if grid:
        write_grid(out, np.concatenate(drawn))
