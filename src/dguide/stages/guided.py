"""Stage `guided`: evaluation samples of one variant, the unguided `edm` included; command `sample`: any of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dguide import tracking
from dguide.artifacts import Layout, resumable
from dguide.settings import Config, Variant
from dguide.settings.sections import SampleRange
from dguide.stages.sampling import Arrays, open_variant, sampler_settings, window_of
from dguide.tracking import Tracker
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.files import WEIGHT_FILES, write_npz
from discriminator_guidance.images import GRID_COLUMNS, GRID_ROWS, write_grid, write_png
from discriminator_guidance.noise import karras_sigmas
from discriminator_guidance.runtime import barrier, broadcast, is_first, rank, world_size

PATH = ("sigma", "states", "denoised", "log_ratio", "fit_sigma", "fit_weights")  # what trajectory.npz holds


def run(config: Config, layout: Layout, tracker: Tracker, variant: str) -> dict[str, Any]:
    """Write samples.npz, trajectory.npz (the first samples at every noise level) and grid.png of a variant."""
    keep, row = config.guided.trajectory_images, config.variants[variant]
    tracker.params({**vars(sampler_settings(config, row)), "members": row.members, "rule": row.rule})
    drawn = draw_samples(config, layout, row, config.guided, f"guided-{variant}", keep)
    if not is_first():
        return {}
    folder = layout.guided(variant)
    write_npz(folder / "trajectory.npz", **{name: drawn.pop(name) for name in PATH if name in drawn})
    write_npz(folder / "samples.npz", **drawn)
    write_grid(folder / "grid.png", drawn["images"])
    tracker.artifact(folder / "grid.png")
    return {"images": len(drawn["images"])}


def write_images(config: Config, layout: Layout, variant: str, seeds: Sequence[int], out: Path) -> None:
    """Write sample i of every seed i as `<i>.png` in the folder `out`, or as one grid where `out` ends in .png."""
    grid, most, drawn = out.suffix.lower() == ".png", GRID_COLUMNS * GRID_ROWS, []
    if variant not in config.variants:
        raise ConfigError("a variant of the settings", repr(variant), f"choose one of: {', '.join(config.variants)}")
    if (grid and len(seeds) > most) or (out.exists() and out.is_dir() == grid):
        expected, found = f"--out: a folder, or a .png of at most {most} seeds", f"{out} and {len(seeds)} seeds"
        raise ConfigError(expected, found, "choose another --out")
    opened, size = open_variant(config, layout, config.variants[variant]), config.guided.batch_size
    with tracking.bar(f"samples of {variant}", len(seeds), "images") as advance:
        for batch in (seeds[start : start + size] for start in range(0, len(seeds), size)):
            drawn.append(opened.draw(config.guided.seed, batch)["images"])
            if not grid:
                for seed, image in zip(batch, drawn.pop(), strict=True):
                    write_png(out / f"{seed:06d}.png", image)
            advance(len(batch))
    if grid:
        write_grid(out, np.concatenate(drawn))


def draw_samples(
    config: Config, layout: Layout, variant: Variant, span: SampleRange, name: str, keep: int = 0
) -> Arrays:
    """The samples of a range: images (N, H, W, C) uint8, index (N,), labels (N,) of a conditional profile, log_ratio
    (steps, N), and of the first `keep` samples states (steps + 1, keep, H, W, C) and denoised, at noise levels sigma;
    fitted weights fit_weights (T, M) of noise levels fit_sigma.

    Finished shards of an interrupted run are read, missing ones drawn; under torchrun the processes divide them.
    """
    opened = open_variant(config, layout, variant)
    sampler, fit = opened.sampler, opened.fit
    count = span.images
    indices = range(span.seed_start, span.seed_start + count)
    shards = [indices[start : start + span.batch_size] for start in range(0, count, span.batch_size)]
    settings = {
        "sampler": vars(sampler),
        "variant": variant.model_dump(mode="json"),
        "window": window_of(config, variant),
        "span": span.model_dump(),
        "keep": keep,
        "fitted": {name: values.tolist() for name, values in fit.items()},
    }
    weights = [folder / file for folder in opened.folders for file in WEIGHT_FILES]
    work = resumable(layout, name, weights, settings, opened.compute)
    missing = broadcast([number for number in range(len(shards)) if work.load_shard(number) is None])
    with tracking.bar(name, count, "images") as advance:
        advance(count - sum(len(shards[number]) for number in missing))
        for number in missing[rank() :: world_size()]:
            batch = shards[number]
            kept = len(range(batch.start, min(batch.stop, indices.start + keep)))
            work.save_shard(number, **opened.draw(span.seed, batch, kept))
            advance(len(batch))
    barrier()
    if not is_first():
        return {}
    parts = [part for number in range(len(shards)) if (part := work.load_shard(number)) is not None]
    if len(parts) < len(shards):
        remedy = "share the project folder among all processes, and run the command again"
        raise InputError(f"{len(shards)} shards in {work.folder}", f"{len(parts)}", remedy)
    drawn = _merged(parts)
    work.remove()
    sigmas = karras_sigmas(sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho)
    fitted = {name: values.numpy() for name, values in fit.items()}
    return {**drawn, **fitted, "index": np.asarray(indices, dtype=np.int64), "sigma": sigmas.numpy()}


def _merged(parts: list[Arrays]) -> Arrays:
    by_sample = {"images": 0, "labels": 0, "states": 1, "denoised": 1, "log_ratio": 1}  # the axis of the samples
    return {name: np.concatenate([part[name] for part in parts], axis=by_sample[name]) for name in parts[0]}
