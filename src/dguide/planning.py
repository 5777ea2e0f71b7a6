"""Command `plan`: what each stage of a profile will cost on this machine, and which input files are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from math import ceil
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import one_hot
from torch.utils.benchmark import timer  # waits for a GPU

from dguide import tracking
from dguide.artifacts import REPLICATED, work_apart
from dguide.benchmark.networks import SAMPLER, TRAINING_STEPS, Call, Calls, head_network
from dguide.settings.sections import HeadNetwork
from dguide.stages.discriminator import head_settings
from dguide.stages.guided import FIT_DRAWS, sampler_settings, window_of
from discriminator_guidance.files import read_json
from discriminator_guidance.metrics.features import INCEPTION_FEATURES
from discriminator_guidance.noise import karras_sigmas, tau_from_sigma
from discriminator_guidance.runtime import prepare
from discriminator_guidance.training.classifiers import train_classifier
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import split_pairs
from discriminator_guidance.training.score import ScoreSettings, train_score

if TYPE_CHECKING:
    from dguide.artifacts import Layout
    from dguide.settings import Config, Variant

DIGITS, CIFAR10_TRAIN, CIFAR10_TEST, CLASSES = 1797, 50_000, 10_000, 10
METRICS_SHARE, EDGE = 0.5, 1024  # what metrics reach of the rate of one large float64 product, and its size
COMMAND_S = 5.0  # by measurement: DVC's own seconds for a stage, imports, reading and writing files
MATCHING_COST = 5  # of a training step by score matching, in steps by cross-entropy
VALIDATION_SHARE = 0.2  # of a discriminator's training step: no features, no backward pass
SMALLEST, GROWTH, REPEATS = 16, 4, 5  # images of a call that tells of larger ones, the next size, and calls of a size
UNGUIDED = "edm"  # the variant that all others are compared with


class Kind(NamedTuple):
    """One kind of call: what is called, and the heads it goes through."""

    name: str
    heads: tuple[HeadNetwork, ...] = ()


DENOISER, FEATURES = Kind("denoiser"), Kind("fid features")
METRICS = Kind("metrics")  # of which an "image" is one operation in float64


class RealImages(NamedTuple):
    """Shape (C, H, W), number of classes, and numbers of training and held-out images."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    holdout: int


def estimate(config: Config, layout: Layout, seconds: float, processes: int = 1) -> dict[str, float]:
    """The seconds of each stage run: each kind of call that the profile makes is timed, for `seconds` in all.

    N processes are assumed to be N times as fast; in fact, evaluation and fits of weights gain less.
    """
    real = real_images(config, layout)
    stages = dict(stage_calls(config, real))
    factor = torch.ones(EDGE, EDGE, dtype=torch.float64)
    per_image = {METRICS: seconds_per_image(lambda _: factor @ factor, 1, 1.0) / (METRICS_SHARE * 2 * EDGE**3)}
    kinds = list(dict.fromkeys(kind for calls in stages.values() for kind in calls if kind != METRICS))
    with tracking.bar("timing this machine", len(kinds), "kinds of call") as advance:
        for number, kind in enumerate(kinds):
            began = perf_counter()
            call, batch, uses = call_of(config, real, kind)
            per_image[kind] = seconds_per_image(call, batch, seconds / (len(kinds) - number)) / uses
            seconds -= perf_counter() - began
            advance(1)
    took = dict[str, float]()
    for stage, calls in stages.items():
        times = replicate_times(stage.partition("/")[0], config.replicates, processes)
        took[stage] = times * sum(per_image[kind] * images for kind, images in calls.items())
    commands = len(stages) + 2  # and stages `real` and `report`
    return {**took, f"start of {commands} commands": commands * COMMAND_S}


def replicate_times(word: str, replicates: int, processes: int) -> float:
    """How many times the time of one replicate a stage takes."""
    runs = replicates if word in (*REPLICATED, "evaluation") else 1
    return ceil(runs / processes) if work_apart(word, runs, processes) else runs / processes


def seconds_per_image(call: Call, batch: int, budget: float) -> float:
    """Time a call at growing sizes up to the stage's batch; the size at which the seconds end is what counts.

    Small calls mislead, above all on a busy machine: the time of starting threads does not grow with them.
    """
    call(1)  # prepares libraries and memory
    began, size, times = timer(), min(batch, SMALLEST), list[float]()
    while len(times) < REPEATS:
        before = timer()
        call(size)
        times.append(timer() - before)
        if timer() - began > budget:
            break
        if size < batch:
            size, times = min(batch, GROWTH * size), []
    return median(times) / size


def real_images(config: Config, layout: Layout) -> RealImages:
    """What the data card says; before stage `real` has run, what its source is known to hold."""
    real, card, size = config.real, layout.real / "card.json", config.real.image_size
    known: dict[str, Any] = read_json(card, "real") if card.is_file() else {}
    if known.get("source") == real.source:
        return RealImages((known["shape"][2], size, size), len(known["classes"]), known["train"], known["holdout"])
    if real.source == "digits":
        holdout = round(real.holdout_fraction * DIGITS)
        return RealImages((1, size, size), CLASSES, DIGITS - holdout, holdout)
    if real.source == "cifar10":
        return RealImages((3, size, size), CLASSES, CIFAR10_TRAIN, CIFAR10_TEST)
    return RealImages((3, size, size), CLASSES, config.fake.images, config.fake.images // 5)  # as many as `fake`


def missing_files(config: Config, root: Path) -> list[str]:
    """The input files of a profile that are not there, a line each with the key that names it and how to get it."""
    named = {"real.path": config.real.path, "real.holdout_path": config.real.holdout_path}
    named |= {f"{word}.path": getattr(config, word).path for word in ("score", "extractor", "fid_network")}
    named |= {f"members.{name}.start": row.start for name, row in config.members.items()}
    named["evaluation.reference"] = config.evaluation.reference
    downloads = {file.path: (name, file) for name, file in config.fetch.files.items()}
    lines = dict[str, str]()
    for key, path in named.items():
        made = path.startswith((f"data/{config.profile}/", "models/"))
        if made or path in lines or (root / Path(path).expanduser()).exists():
            continue
        name, file = downloads.get(path, ("", None))
        how = f"by hand from {file.by_hand}" if file else "put it there by hand"
        lines[path] = f"{path} ({key}): " + (f"`dguide fetch {name}`, or {how}" if file and file.url else how)
    return list(lines.values())


def table(seconds: Mapping[str, float]) -> list[dict[str, str]]:
    """The estimates as they are printed, with their total."""
    rows = {**seconds, "total": sum(seconds.values())}
    return [{"stage": stage, "time": str(timedelta(seconds=round(took)))} for stage, took in rows.items()]


def stage_calls(config: Config, real: RealImages) -> Iterator[tuple[str, dict[Kind, float]]]:
    """The stages of a profile, named as in MLflow, and the images that a replicate sends through each kind of call."""
    guided, evaluation, section = config.guided, config.evaluation, config.discriminator
    for name in ("score", "extractor", "fid_network"):
        settings, calls = getattr(config, name), dict[Kind, float]()
        if settings.source == "train":
            iterations = max([settings.training.iterations, *getattr(settings, "snapshots", {}).values()])
            calls[Kind(f"{name} step")] = iterations * settings.training.batch_size
        if name == "fid_network":
            calls[FEATURES] = real.train + real.holdout
        yield name, calls
    yield "fake", {DENOISER: (2 * config.sampler.steps - 1) * config.fake.images}

    shares = section.split
    for name in config.members:
        member = config.member(name)
        sizes = real.train, config.fake.images, shares.train, shares.validation, shares.seed, member.images
        split, head = split_pairs(*sizes), head_settings(section, member)
        validation, test = (section.grid_times_per_image * len(part) for part in (split.validation, split.test))
        cost = 1 if head.objective == "cross_entropy" else MATCHING_COST
        epoch = cost * len(head.rows(split)) + round(VALIDATION_SHARE * validation)
        step = Kind("discriminator step", (head_network(config, name),))
        yield f"discriminator/{name}", {step: head.epochs * epoch + validation + test}

    for name, variant in config.variants.items():
        nfe = (2 * sampler_settings(config, variant).steps - 1) * (1 if variant.autoguidance is None else 2)
        calls = {DENOISER: nfe * guided.images}
        if variant.members:
            heads = tuple(head_network(config, member) for member in variant.members)
            fit = FIT_DRAWS * (1 - shares.train) * real.train * len(heads) if variant.weights == "fitted" else 0
            calls[Kind("guidance", heads)] = (guided.images + round(fit)) * guidance_calls(config, variant)
        yield f"guided/{name}", calls

    d = INCEPTION_FEATURES if config.fid_network.source == "inception" else config.fid_network.features
    n, m, subset = guided.images, real.train, evaluation.kid_subset_size
    # In d features: roots and influence of a set and of the unguided one, subsets of KID, distances of neighbours.
    flops = 2.0 * (5 * n * d**2 + 30 * d**3) + 3 * m * d**2
    flops += 12.0 * evaluation.kid_subsets * subset**2 * d + 2.0 * d * (n**2 + 2 * n * m + m**2)
    for name in config.variants:
        yield f"evaluation/{name}", {FEATURES: n if name == UNGUIDED else 2 * n, METRICS: flops}


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
    if kind == DENOISER:
        return calls.sampler(), batch, 2 * SAMPLER.steps - 1
    if kind.name == "guidance":
        return calls.guidance(*kind.heads), batch, 1
    if kind.name == "discriminator step":
        return calls.head_training(*kind.heads), config.discriminator.batch_size, TRAINING_STEPS
    if kind == FEATURES:
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
