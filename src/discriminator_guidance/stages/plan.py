"""Command `plan`: what a profile will cost on this machine, and which files it lacks; it writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from discriminator_guidance.artifacts.archives import open_files
from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.config import listed_members
from discriminator_guidance.errors import UserError
from discriminator_guidance.planning.blueprints import Blueprints, Pictures
from discriminator_guidance.planning.commands import commands
from discriminator_guidance.planning.estimate import Estimate, Speed, estimate
from discriminator_guidance.planning.tracing import Traces
from discriminator_guidance.stages.calibration import calibrate
from discriminator_guidance.stages.fetch import listing
from discriminator_guidance.stages.needed import missing_files

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.context import Context
    from discriminator_guidance.stages.layout import Layout

DIGITS, CIFAR10_TRAIN, CIFAR10_TEST, CLASSES = 1797, 50_000, 10_000, 10


@dataclass(frozen=True)
class Plan:
    """The costs of a profile.

    Args:
        estimates: of its stage runs, in an order in which they can run.
        start_up_s: from the start of the program until a stage begins, once for each run.
        timings: cells by column, a row for each kind of pass.
        remarks: what the figures rest on, a line each.
        missing: what has to be got and how, a line each.
    """

    estimates: list[Estimate]
    start_up_s: float
    timings: list[dict[str, str]]
    remarks: list[str]
    missing: list[str]


def run(config: Config, context: Context, budget_s: float) -> Plan:
    """Count, calibrate and estimate.

    Args:
        config: the profile.
        context: surroundings; nothing is written.
        budget_s: seconds of timing.

    Returns:
        Costs of each stage run, what they rest on, and missing files.
    """
    pictures, source = study_pictures(config, context)
    blueprints = Blueprints(config, pictures)
    runs = commands(blueprints)
    traces = Traces(blueprints)
    kinds = {traces.alike(way) for command in runs for way in command.passes}
    with context.bar("timing this machine", len(kinds) + 1, "kinds of work") as advance:
        speed, calls = calibrate(blueprints, traces, runs, budget_s, advance)
    remarks = [
        f"pictures: {pictures.size} x {pictures.size} x {pictures.channels}, {pictures.train:,} real for training and "
        f"{pictures.holdout:,} held out, {source}; all other numbers are the profile's",
        f"device {calls.sampling.device}, training in {calls.training.mode}, frozen networks in {calls.sampling.mode}, "
        f"{config.runtime.threads} CPU threads; timed for {budget_s:g} s under the load of this moment",
        "included: networks, sampler, noise, optimizer, metrics; left out: DVC's own work and hashing of files; "
        "`start-up` is Python and its libraries, once a run",
        "disk: what stages leave behind; `.dvc/cache` holds it once more unless the file system shares it, and an "
        "unfinished stage its shards. memory: process, weights, pictures, kept features, float32 tensors of one batch",
        *unlisted(config, context.layout),
    ]
    estimates = [estimate(command, traces, speed) for command in runs]
    return Plan(estimates, speed.start_up_s, _timings(speed, traces), remarks, missing(config, context))


def study_pictures(config: Config, context: Context) -> tuple[Pictures, str]:
    """How many real pictures there are, and of what shape.

    Args:
        config: reads `real` and `fake`.
        context: where the data card would be.

    Returns:
        The numbers, and where they come from.
    """
    real, card = config.real, context.layout.real / "card.json"
    if card.is_file():
        told = read_json(card, "real")
        if told["source"] == real.source and told["shape"][0] == real.image_size:
            found = Pictures(real.image_size, told["shape"][2], len(told["classes"]), told["train"], told["holdout"])
            return found, "as the data card says"
    if real.source == "digits":
        held_out = round(real.holdout_fraction * DIGITS)
        return Pictures(real.image_size, 1, CLASSES, DIGITS - held_out, held_out), "as scikit-learn has them"
    if real.source == "cifar10":
        return Pictures(real.image_size, 3, CLASSES, CIFAR10_TRAIN, CIFAR10_TEST), "as the official archive has them"
    counts = [_count(context.layout.root / path) for path in (real.path, real.holdout_path) if path]
    if None in counts:
        assumed = config.fake.images
        return Pictures(real.image_size, 3, CLASSES, assumed, assumed // 5), "assumed until stage real has run"
    train, *rest = [count for count in counts if count is not None]
    held_out = rest[0] if rest else round(real.holdout_fraction * train)
    train -= 0 if rest else held_out
    return Pictures(real.image_size, 3, CLASSES, train, held_out), "as many as there are files; colours assumed"


def missing(config: Config, context: Context) -> list[str]:
    """Files of others that are not as they should be, each with what to do.

    Args:
        config: the profile.
        context: where the project is.

    Returns:
        Lines; empty if nothing is missing.
    """
    layout = context.layout
    rows, advice = listing(config, layout.root)
    absent = {row["file"] for row in rows if row["state"] in ("missing", "wrong")}
    lines = [line for line in advice if line.split(":")[0] in absent]
    fetched = {download.path for download in config.fetch.files.values()}
    named: dict[str, str] = {}
    for member in (None, *config.discriminator.members):
        named |= missing_files(config, layout, member)
    lines += [f"{key}: no file at {path}; put it there by hand" for key, path in named.items() if path not in fetched]
    return lines


def unlisted(config: Config, layout: Layout) -> list[str]:
    """Say which released discriminators are planned although the pipeline would leave them out.

    Args:
        config: the profile.
        layout: where files are, and the profile's name.

    Returns:
        One line, or none.
    """
    listed = listed_members(layout.profile, layout.root)
    left_out = [
        name for name, row in config.discriminator.members.items() if hasattr(row, "path") and name not in listed
    ]
    if not listed or not left_out:
        return []
    return [f"planned, but run only where it is among the `members` that the pipeline has: {', '.join(left_out)}"]


def _count(path: Path) -> int | None:
    """Pictures in a folder or zip; None where it is missing, an array file, or no such source."""
    if not path.exists() or path.suffix == ".npz":
        return None
    try:
        with open_files(path) as files:
            return sum(not name.endswith(".json") for name in files.names)
    except UserError:
        return None


def _timings(speed: Speed, traces: Traces) -> list[dict[str, str]]:
    """What was timed, and what was only carried over."""
    rows = []
    for way, rate in speed.rates.items():
        flops = traces.of(way).flops
        rows.append(
            {
                "pass": f"{way.kind}, {len(way.heads)} members" if way.kind == "guidance" else way.kind,
                "GFLOP a picture": f"{flops / 1e9:.3g}",
                "ms a picture": f"{1e3 * rate.seconds:.3g}",
                "GFLOP/s": f"{flops / rate.seconds / 1e9:.3g}",
                "timed at": f"{rate.at_once} pictures" if rate.at_once else "not timed: FLOP/s of the others",
            }
        )
    return rows
