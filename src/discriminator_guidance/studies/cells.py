"""The cells of the factorial: their members, trained once for every level of training, their samples, their distance.

Both are kept under names that depend on everything that determines them, so that a cell is never computed twice, and
with checksums, so that a damaged one is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.files import fingerprint, read_npz, sha256, write_npz
from discriminator_guidance.artifacts.sealed_json import read_sealed, write_sealed
from discriminator_guidance.artifacts.weights import WEIGHT_FILES, save_weights
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.distances import frechet_distance_from_features
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.significance import frechet_influence
from discriminator_guidance.stages import guided
from discriminator_guidance.stages.context import Context, prepare_compute
from discriminator_guidance.stages.discriminator import open_bench
from discriminator_guidance.stages.heads import train_member
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_fid_network
from discriminator_guidance.stages.sharing import companions

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, TrainedMember

TRAINING = ("init", "epoch_factor", "reshuffle")  # the factors that decide what members become
SEED_STRIDE = 1000  # between the members' seeds of two blocks
VARIANT = "cell"

Members = Literal["all", "first", "none"]


@dataclass(frozen=True)
class Cell:
    """One run of the experiment: a block, a combination of levels, and how many members guide.

    Args:
        block: place among the training seeds.
        on: the factors at the level of the study; the others are at ours.
        members: all of the plan, its first alone, or none (unguided).
    """

    block: int
    on: frozenset[str]
    members: Members = "all"

    def level(self, config: Config, factor: str) -> Any:
        """The value of a factor in this cell."""
        return getattr(config.factorial.levels, factor)[factor in self.on]

    def label(self, factors: tuple[str, ...]) -> str:
        """Its name for people, without the block."""
        settings = {0: "ours", len(factors): "study"}.get(len(self.on))
        on = settings or " + ".join(factor for factor in factors if factor in self.on)
        return {"all": on, "first": f"one discriminator, {on}", "none": f"no guidance, {on}"}[self.members]


@dataclass(frozen=True)
class CellLayout(Layout):
    """The profile's folders, but members and samples of one cell in folders of its own."""

    heads: Path = field(kw_only=True)
    samples: Path = field(kw_only=True)

    def discriminator(self, member: str) -> Path:
        """Weights of a member of the cell's training set."""
        return self.heads / member

    def guided(self, variant: str) -> Path:
        """Samples of the cell."""
        return self.samples


@dataclass(frozen=True)
class Laboratory:
    """Where cells are computed and kept; can be handed to another process.

    Args:
        config: the profile.
        layout: its folders.
    """

    config: Config
    layout: Layout

    def members(self, cell: Cell) -> tuple[str, ...]:
        """Names of the members that guide a cell."""
        names = self.config.factorial.members
        return {"all": names, "first": names[:1], "none": ()}[cell.members]

    def heads(self, cell: Cell) -> Path:
        """Folder of the cell's training set, shared by all cells with these levels of training in this block."""
        told = {
            "discriminator": self.training_config(cell).discriminator.model_dump(),
            "runtime": self.training_config(cell).runtime.model_dump(),
            "cond": self.config.cond,
        }
        return self.layout.factorial / "members" / fingerprint({**told, **self._origin})[:20]

    def samples(self, cell: Cell) -> Path:
        """Folder of the cell's samples and distance."""
        config = self.sampling_config(cell)
        told = {
            "members": self.heads(cell).name if cell.members != "none" else None,
            "variant": config.guided.variants[VARIANT].model_dump(),
            "sampler": config.sampler.model_dump(),
            "range": [config.guided.images, config.guided.seed, config.guided.seed_start],
            "batches": [config.guided.batch_size, config.guided.shard_size],
            "window": [config.guided.time_min, config.guided.time_max],
            "cond": config.cond,
            "runtime": config.runtime.model_dump(),
            "inputs": self._digests("score", "fid_network"),
        }
        return self.layout.factorial / "cells" / fingerprint({**told, **self._origin})[:20]

    def training_config(self, cell: Cell) -> Config:
        """The profile as the cell's members are trained: levels, seeds and pictures of the factorial."""
        config, plan = self.config, self.config.factorial
        shift = SEED_STRIDE * plan.training_seeds[cell.block]
        rows = {name: cast("TrainedMember", config.discriminator.members[name]) for name in plan.members}
        told = {
            "images": config.discriminator.images if plan.training_images is None else plan.training_images,
            "learning_rate_factor": plan.learning_rate_factor,
            "members": {name: row.model_copy(update={"seed": row.seed + shift}) for name, row in rows.items()},
            **{factor: cell.level(config, factor) for factor in TRAINING},
        }
        return self._with(discriminator=config.discriminator.model_copy(update=told))

    def sampling_config(self, cell: Cell) -> Config:
        """The profile as the cell is sampled: one variant, the range of its block."""
        config, plan, names = self.config, self.config.factorial, self.members(cell)
        told = {
            "members": names,
            "rule": cell.level(config, "rule") if len(names) > 1 else "mean_probability",
            "weights": "equal",
            "w1": plan.w1 if names else 0.0,
            "w2": cell.level(config, "w2") if names else 0.0,
            "boosting": cell.level(config, "boosting") if names else False,
        }
        chosen = {
            "images": plan.images,
            "ranges": 1,
            "seed_start": plan.seed_start + cell.block * plan.images,
            "trajectory_images": 1,
            "on_nonfinite": "stop",
            "variants": {VARIANT: config.guided.variants["edm"].model_copy(update=told)},
        }
        sampler = config.sampler.model_copy(update={"steps": cell.level(config, "steps")})
        return self._with(guided=config.guided.model_copy(update=chosen), sampler=sampler)

    @cached_property
    def _origin(self) -> dict[str, Any]:
        inputs = self._digests("extractor") | {
            str(path.relative_to(self.layout.root)): sha256(path)
            for path in (self.layout.real / "train.npz", self.layout.fake / "samples.npz")
        }
        return {
            "data": inputs,
            "code": closure_digest("studies.cells"),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def _digests(self, *words: str) -> dict[str, str]:
        paths = [self.layout.model(word) / name for word in words for name in WEIGHT_FILES]
        return {str(path.relative_to(self.layout.root)): sha256(path) for path in paths}

    def _with(self, **sections: Any) -> Config:
        runtime = self.config.runtime.model_copy(update={"threads": self.config.factorial.threads})
        return self.config.model_copy(update={"runtime": runtime, **sections})


def trained(laboratory: Laboratory, cell: Cell) -> bool:
    """Whether the members of a cell are there, with the losses that were written."""
    return read_sealed(laboratory.heads(cell) / "losses.json") is not None


def train_members(laboratory: Laboratory, cell: Cell) -> dict[str, Any]:
    """Train the members of a cell, those that are not there yet or whose losses were changed.

    Args:
        laboratory: where.
        cell: any cell of the training set.

    Returns:
        By member: training and validation loss after the last epoch, smallest validation loss and its epoch.
    """
    folder, config = laboratory.heads(cell), laboratory.training_config(cell)
    if (known := read_sealed(folder / "losses.json")) is not None:
        return known
    bench, losses = open_bench(config, _context(laboratory.layout)), {}
    for name in config.discriminator.members:
        place = folder / name
        if read_sealed(place / "losses.json") is None:
            sharing = companions(config.discriminator, name)
            left = [other for other in sharing if read_sealed(folder / other / "losses.json") is None]
            head, history, work = train_member(bench, name, left)
            best = min(history, key=lambda row: row["validation_loss"])
            told = {key: history[-1][key] for key in ("epoch", "train_loss", "validation_loss")}
            save_weights(place, head.state_dict(), head.arguments)
            write_sealed(
                place / "losses.json",
                {**told, "best_validation_loss": best["validation_loss"], "best_epoch": best["epoch"]},
            )
            work.remove()
        losses[name] = _whole(place / "losses.json")
    write_sealed(folder / "losses.json", losses)
    return losses


def sampled(laboratory: Laboratory, cell: Cell) -> bool:
    """Whether the result of a cell is there, as it was written."""
    return read_sealed(laboratory.samples(cell) / "cell.json") is not None


def draw_cell(laboratory: Laboratory, cell: Cell) -> None:
    """Draw the samples of a cell with its trained members and keep their distance, if that is missing or was changed.

    Args:
        laboratory: where.
        cell: which.
    """
    if sampled(laboratory, cell):
        return
    folder, config = laboratory.samples(cell), laboratory.sampling_config(cell)
    layout = laboratory.layout
    own = CellLayout(layout.root, layout.profile, heads=laboratory.heads(cell), samples=folder)
    guided.run(config, _context(own), VARIANT)
    drawn = read_npz(folder / "samples.npz", ["images"], "factorial")["images"]
    real = read_npz(layout.real / "train.npz", ["images"], "real")["images"]
    compute = prepare_compute(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
    network = load_fid_network(layout, compute)

    def penultimate(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = network.features(pictures)
        return features

    sets = [
        extract_features(penultimate, pictures, config.evaluation.batch_size, compute.device)
        for pictures in (drawn, real)
    ]
    write_npz(folder / "influence.npz", influence=frechet_influence(*sets))
    told = {"fid": frechet_distance_from_features(*sets), "n": len(drawn), "precision_mode": compute.mode}
    write_sealed(folder / "cell.json", told, beside=["influence.npz"])


def read_cell(laboratory: Laboratory, cell: Cell) -> tuple[float, np.ndarray]:
    """The result of a cell.

    Args:
        laboratory: where.
        cell: which.

    Returns:
        Its Frechet distance and (N,) influence values.

    Raises:
        InputError: it is not there, or not as it was written.
    """
    folder = laboratory.samples(cell)
    fid: float = _whole(folder / "cell.json")["fid"]
    return fid, read_npz(folder / "influence.npz", ["influence"], "factorial")["influence"]


def _whole(path: Path) -> dict[str, Any]:
    if (told := read_sealed(path)) is None:
        raise InputError(f"{path} as it was written", "a file that is missing or was changed", "run `dguide factorial`")
    return told


def _context(layout: Layout) -> Context:
    """Surroundings of a worker, whose progress is that of the whole experiment."""

    @contextmanager
    def bar(description: str, total: int, unit: str) -> Iterator[Any]:
        yield lambda amount: None

    def on_metrics(step: int, values: Mapping[str, float]) -> None:
        return None

    return Context(layout, bar, on_metrics, lambda line: None)
