"""Command `plan`: what each stage of a profile will cost on this machine, and which input files are missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import one_hot
from torch.utils.benchmark import timer  # waits for a GPU

from discriminator_guidance import progress
from discriminator_guidance.benchmark.networks import SAMPLER, TRAINING_STEPS, Call, Calls, head_network
from discriminator_guidance.config.sections import HeadNetwork
from discriminator_guidance.data.files import read_json
from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.diffusion.vp_time import tau_from_sigma
from discriminator_guidance.evaluation.inception import INCEPTION_FEATURES
from discriminator_guidance.networks.precision import prepare
from discriminator_guidance.stages.discriminator import head_settings
from discriminator_guidance.stages.layout import REPLICATED
from discriminator_guidance.stages.sampling import FIT_DRAWS, sampler_settings, window_of
from discriminator_guidance.training.classifiers import train_classifier
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import split_pairs
from discriminator_guidance.training.score import ScoreSettings, train_score

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant
    from discriminator_guidance.stages.layout import Layout

DIGITS, CIFAR10_TRAIN, CIFAR10_TEST, CLASSES = 1797, 50_000, 10_000, 10
METRICS_SHARE, EDGE = 0.5, 1024  # what metrics reach of the rate of one large float64 product, and its size
# Seconds by measurement: DVC's own for a stage, the libraries of an evaluation, the report, an image read from a file.
DVC_S, METRICS_S, REPORT_S, READ_S = 1.0, 2.0, 4.0, 2e-4
MATCHING_COST = 5  # of a training step by score matching, in steps by cross-entropy
VALIDATION_SHARE = 0.2  # of a discriminator's training step: no features, no backward pass
WORTH_TIMING, REPEATS = 0.02, 5  # seconds of the smallest call that counts, and calls of the stage's size at the most
UNGUIDED = "edm"  # the variant that all others are compared with
START = "import mlflow, discriminator_guidance.stages.guided"


class Kind(NamedTuple):
    """One kind of call: what is called, and the heads it goes through."""

    name: str
    heads: tuple[HeadNetwork, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A stage run, named as in MLflow, e.g. `guided/d0`; numbers that do not apply are 0."""

    stage: str
    images: int = 0
    nfe: int = 0  # denoiser evaluations of an image
    iterations: int = 0
    seconds: float = 0.0  # of `stage_runs` those alone that neither networks nor metrics take
    flops: float = 0.0  # float64, of the metrics
    calls: dict[Kind, int] = field(default_factory=dict)  # images sent through each kind of call


class RealImages(NamedTuple):
    """Shape (C, H, W), number of classes, and numbers of training and held-out images."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    holdout: int


def estimate(config: Config, layout: Layout, seconds: float) -> list[Estimate]:
    """Time each kind of call that the stages of a profile make, for about so many seconds, and multiply."""
    real = real_images(config, layout)
    stages = [repeated(stage, config.replicates) for stage in stage_runs(config, real)]
    kinds = list(dict.fromkeys(kind for stage in stages for kind in stage.calls))
    per_image, left = dict[Kind, float](), seconds
    with progress.bar("timing this machine", len(kinds), "kinds of call") as advance:
        for number, kind in enumerate(kinds):
            began = perf_counter()
            call, batch, times = call_of(config, real, kind)
            per_image[kind] = seconds_per_image(call, batch, left / (len(kinds) - number)) / times
            left -= perf_counter() - began
            advance(1)
    began = perf_counter()
    subprocess.run([sys.executable, "-c", START], check=True)
    start_up = DVC_S + perf_counter() - began
    factor = torch.ones(EDGE, EDGE, dtype=torch.float64)
    rate = 2 * EDGE**3 / seconds_per_image(lambda _: factor @ factor, 1, 1.0)
    return with_seconds(stages, per_image, METRICS_SHARE * rate, start_up)


def repeated(stage: Estimate, replicates: int) -> Estimate:
    """A stage run with all its replicates."""
    if stage.stage.partition("/")[0] not in (*REPLICATED, "evaluation"):
        return stage
    numbers = {key: replicates * getattr(stage, key) for key in ("images", "iterations", "seconds", "flops")}
    return replace(stage, **numbers, calls={kind: replicates * count for kind, count in stage.calls.items()})


def with_seconds(
    stages: Sequence[Estimate], per_image: Mapping[Kind, float], metric_rate: float, start_up: float
) -> list[Estimate]:
    """The stages with their seconds, and a row for the start of their commands."""

    def seconds(stage: Estimate) -> float:
        called = sum(per_image[kind] * images for kind, images in stage.calls.items())
        return stage.seconds + stage.flops / metric_rate + called

    rows = [replace(stage, seconds=seconds(stage)) for stage in stages]
    return [*rows, Estimate(f"start of {len(rows)} commands", seconds=len(rows) * start_up)]


def seconds_per_image(call: Call, batch: int, budget: float, clock: Callable[[], float] = timer) -> float:
    """Time a call at the stage's batch size; where the seconds do not allow that, extrapolate from smaller ones."""

    def timed(size: int) -> float:
        before = clock()
        call(size)
        return clock() - before

    call(1)  # prepares libraries and memory
    began = clock()
    small = min(batch, max(1, round(WORTH_TIMING / timed(1))))
    large = min(batch, 4 * small)
    first, second = timed(small), timed(large)
    expected = second + max(0.0, second - first) * (batch - large) / max(1, large - small)
    times = list[float]()
    while len(times) < REPEATS and clock() - began + expected < budget:
        times.append(timed(batch))
    return (median(times) if times else expected) / batch


def real_images(config: Config, layout: Layout) -> RealImages:
    """What the data card says; before stage `real` has run, what its source is known to hold."""
    real, card = config.real, layout.real / "card.json"
    size = real.image_size
    known: dict[str, Any] = read_json(card, "real") if card.is_file() else {}
    if known.get("source") == real.source and known.get("shape", [0])[0] == size:
        return RealImages((known["shape"][2], size, size), len(known["classes"]), known["train"], known["holdout"])
    if real.source == "digits":
        holdout = round(real.holdout_fraction * DIGITS)
        return RealImages((1, size, size), CLASSES, DIGITS - holdout, holdout)
    if real.source == "cifar10":
        return RealImages((3, size, size), CLASSES, CIFAR10_TRAIN, CIFAR10_TEST)
    return RealImages((3, size, size), CLASSES, config.fake.images, config.fake.images // 5)  # as many as `fake`


def missing_files(config: Config, root: Path) -> list[str]:
    """The input files of a profile that are not there, a line each with the key that names it and how to get it."""
    paths: list[tuple[str, str | None]] = [
        ("real.path", config.real.path),
        ("real.holdout_path", config.real.holdout_path),
    ]
    for name in ("score", "extractor", "fid_network"):
        section = getattr(config, name)
        paths.append((f"{name}.path", None if section.source == "train" else section.path))
    paths.append(("evaluation.reference", config.evaluation.reference_statistics))
    starts = {name: row.start for name, row in config.members.items() if not row.start.startswith("models/")}
    paths += [(f"members.{name}.start", start) for name, start in starts.items()]
    key_of = {path: key for key, path in reversed(paths) if path and not (root / Path(path).expanduser()).exists()}
    downloads = {file.path: (name, file) for name, file in config.fetch.files.items()}
    lines = []
    for path, key in reversed(key_of.items()):
        name, file = downloads.get(path, ("", None))
        how = f"by hand from {file.by_hand}" if file else "put it there by hand"
        lines.append(f"{path} ({key}): " + (f"`dguide fetch {name}`, or {how}" if file and file.url else how))
    return lines


def table(rows: Sequence[Estimate]) -> list[dict[str, str]]:
    """The rows as they are printed, with their total."""
    lines = []
    for row in (*rows, Estimate("total", seconds=sum(row.seconds for row in rows))):
        numbers = {"images": row.images, "NFE": row.nfe, "iterations": row.iterations}
        shown = {key: f"{value:,}" if value else "" for key, value in numbers.items()}
        took = f"{row.seconds:.1f} s" if row.seconds < 100 else str(timedelta(seconds=round(row.seconds)))
        lines.append({"stage": row.stage, **shown, "time": took})
    return lines


def stage_runs(config: Config, real: RealImages) -> Iterator[Estimate]:
    """Every stage run of a profile, and how many images it sends through which calls."""
    guided, evaluation, section = config.guided, config.evaluation, config.discriminator
    read = 0.0 if config.real.source == "digits" else READ_S * (real.train + real.holdout)
    yield Estimate("real", real.train + real.holdout, seconds=read)
    for name in ("score", "extractor", "fid_network"):
        settings = getattr(config, name)
        training = settings.training if settings.source == "train" else None
        iterations = max([training.iterations, *getattr(settings, "snapshots", {}).values()]) if training else 0
        calls = {Kind(f"{name} step"): iterations * training.batch_size} if training else {}
        if name == "fid_network":
            calls[Kind("fid features")] = real.train + real.holdout
        yield Estimate(name, iterations=iterations, calls=calls)
    nfe = 2 * config.sampler.steps - 1
    yield Estimate("fake", config.fake.images, nfe, calls={Kind("denoiser"): nfe * config.fake.images})

    shares = section.split
    split = split_pairs(real.train, config.fake.images, shares.train, shares.validation, shares.seed, section.images)
    validation, test = (section.grid_times_per_image * len(part) for part in (split.validation, split.test))
    for name in config.members:
        settings = head_settings(section, config.member(name))
        cost = 1 if settings.objective == "cross_entropy" else MATCHING_COST
        images = len(settings.rows(split))
        seen = settings.epochs * (cost * images + round(VALIDATION_SHARE * validation)) + validation + test
        iterations = settings.epochs * -(-images // settings.batch_size)
        calls = {Kind("discriminator step", (head_network(config, name),)): seen}
        yield Estimate(f"discriminator/{name}", images, iterations=iterations, calls=calls)

    images = guided.images
    for name, variant in config.variants.items():
        nfe = (2 * sampler_settings(config, variant).steps - 1) * (1 if variant.autoguidance is None else 2)
        calls = {Kind("denoiser"): nfe * images}
        if variant.members:
            heads = tuple(head_network(config, member) for member in variant.members)
            fit = FIT_DRAWS * (1 - shares.train) * real.train * len(heads) if variant.weights == "fitted" else 0
            calls[Kind("guidance", heads)] = (images + round(fit)) * guidance_calls(config, variant)
        yield Estimate(f"guided/{name}", images, nfe, calls=calls)

    d = INCEPTION_FEATURES if config.fid_network.source == "inception" else config.fid_network.features
    n, m, subset = guided.images, real.train, evaluation.kid_subset_size
    # In d features: roots and influence of a set and of the unguided one, subsets of KID, distances of neighbours.
    flops = 2.0 * (5 * n * d**2 + 30 * d**3) + 3 * m * d**2
    flops += 12.0 * evaluation.kid_subsets * subset**2 * d + 2.0 * d * (n**2 + 2 * n * m + m**2)
    for name in config.variants:
        calls = {Kind("fid features"): images if name == UNGUIDED else 2 * images}
        yield Estimate(f"evaluation/{name}", images, seconds=METRICS_S, flops=flops, calls=calls)
    yield Estimate("report", seconds=REPORT_S)


def guidance_calls(config: Config, variant: Variant) -> int:
    """How often the sampler evaluates the members of a variant: in its Euler steps, and in Heun's corrections."""
    sampler, (low, high) = sampler_settings(config, variant), window_of(config, variant)
    tau = tau_from_sigma(karras_sigmas(sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho)[:-1])
    inside = (low <= tau) & (tau <= high)
    return (int(inside.sum()) if sampler.w1 else 0) + (int(inside[1:].sum()) if sampler.w2 else 0)


def call_of(config: Config, real: RealImages, kind: Kind) -> tuple[Call, int, int]:
    """What a stage calls with n images, the most images that it gives, and how often the call handles each."""
    runtime = config.runtime
    training = prepare(runtime.device, runtime.training_precision, runtime.threads)
    frozen = prepare(runtime.device, runtime.sampling_precision, runtime.threads)
    calls, batch = Calls(config, real.shape, real.classes, frozen, training), config.guided.batch_size
    if kind.name == "denoiser":
        return calls.sampler(), batch, 2 * SAMPLER.steps - 1
    if kind.name == "guidance":
        return calls.guidance(*kind.heads), batch, 1
    if kind.name == "discriminator step":
        return calls.head_training(*kind.heads), config.discriminator.batch_size, TRAINING_STEPS
    if kind.name == "fid features":
        features = calls.fid_network().to(calls.device).eval().requires_grad_(False).features
        return lambda n: features(calls.noise(n)), config.evaluation.batch_size, 1
    stage = kind.name.split()[0]
    settings = getattr(config, stage)
    network = getattr(calls, stage)().to(calls.device)

    def train(n: int) -> object:
        own = {"iterations": TRAINING_STEPS, "batch_size": n}
        schedule = Schedule(**{**settings.training.model_dump(), **own})
        images, labels = calls.images(n), calls.labels(n)
        if stage == "fid_network":
            return train_classifier(network, images, labels, schedule, training)
        if stage == "extractor":
            noising = settings.t_min, settings.uniform_time_fraction
            return train_classifier(network, images, labels, schedule, training, noising=noising)
        classes = one_hot(labels, real.classes) if config.cond else None
        constants = settings.p_mean, settings.p_std, settings.sigma_data, settings.ema_decay
        return train_score(network, images, classes, ScoreSettings(schedule, *constants), training)

    return train, settings.training.batch_size, TRAINING_STEPS
