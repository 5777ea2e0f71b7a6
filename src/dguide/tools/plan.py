"""Command `plan`: what each stage of a profile will cost on this machine."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from statistics import median
from typing import Any

from torch.utils.benchmark import timer  # waits for a GPU

from dguide.settings import REPLICATED, Config, Layout, Member, Variant
from dguide.stages.discriminator import member_settings
from dguide.stages.guided import FITTED_IMAGES, guided_levels
from dguide.tools.benchmark import EDGE, Calls, real_images, timed
from discriminator_guidance.core.noise import split_pairs
from discriminator_guidance.core.runtime import alone, barrier, is_first, prepare, progress, world_size
from discriminator_guidance.core.settings import HeadSettings, SamplerSettings
from discriminator_guidance.metrics.features import INCEPTION_FEATURES
from discriminator_guidance.sampling.weights import DRAWS
from discriminator_guidance.training.discriminator import lengths

COMMAND_S = 5.0  # by measurement: DVC's own seconds for a stage, imports, reading and writing files
VALIDATION = 1.1  # training of a discriminator with its validation, relative to training alone
PRODUCT_FLOPS = 0.5 * 2 * EDGE**3  # that metrics reach in the time of a large product, half of its own

Kind = tuple[Any, ...]  # of call: a method of `Calls` and its arguments
DENOISER, FEATURES, PRODUCT = ("denoiser",), ("features",), ("product",)


def estimate(config: Config, layout: Layout, seconds: float) -> dict[str, float]:
    """The seconds of each stage, by timing each kind of call, in all processes of torchrun where they share a stage."""
    runtime, (shape, train, holdout) = config.runtime, real_images(config, layout)
    training = prepare(runtime.device, runtime.training_precision, runtime.threads)
    frozen = prepare(runtime.device, runtime.sampling_precision, runtime.threads)
    calls, stages = Calls(config, shape, frozen, training), dict(stage_calls(config, train, holdout))
    kinds, per_image = list(dict.fromkeys(chain(*stages.values()))), defaultdict[Kind, float](float)
    shared = {kind for stage, counts in stages.items() if stage.partition("/")[0] in REPLICATED for kind in counts}
    with progress("timing this machine", len(kinds), "kinds of call") as advance:
        for number, kind in enumerate(kinds):
            began, (word, *arguments) = timer(), kind
            barrier()
            if kind not in shared and not is_first():
                continue
            section = config.discriminator if word in ("training_step", "head_step") else config.guided
            batch = 1 if word in PRODUCT else section.batch_size
            with alone(kind not in shared):
                images, rounds = timed([getattr(calls, word)(*arguments)], batch, seconds / (len(kinds) - number))
            per_image[kind] = median(took for (took,) in rounds) / images
            seconds -= timer() - began
            advance(1)
    times = {}
    for stage, counts in stages.items():
        word, took = stage.partition("/")[0], sum(per_image[kind] * count for kind, count in counts.items())
        replicates = config.replicates if word in (*REPLICATED, "evaluation") else 1
        times[stage] = took * replicates / (world_size() if word in REPLICATED else 1)
    times[f"start of {len(stages) + 1} commands"] = (len(stages) + 1) * COMMAND_S  # and of stage `real`
    return {**times, "total": sum(times.values())}


def stage_calls(config: Config, train: int, holdout: int) -> Iterator[tuple[str, Mapping[Kind, float]]]:
    """The stages of a profile, and the images that a replicate sends through each kind of call."""
    reference, train = config.count("reference", train), config.count("discriminator", train)
    for name in ("score", "extractor", "fid_network"):
        settings, step, counts = getattr(config, name), ("training_step", name), Counter[Kind]()
        if settings.source == "train":
            iterations = max([settings.training.iterations, *getattr(settings, "snapshots", {}).values()])
            counts[step] = iterations * settings.training.batch_size
            for tuning in getattr(settings, "finetuned", {}).values():
                images = tuning.iterations * settings.training.batch_size
                counts[step] += images
                if tuning.objective == "ddo":  # samples too, which are drawn first, and the loss before the training
                    counts[step] += images
                    counts[DENOISER] += 2 * images + (2 * SamplerSettings().steps - 1) * tuning.images
        if name == "fid_network":
            counts[FEATURES] = reference + holdout
        yield name, counts
    fakes = config.fake.images * (1 + len(config.fake.networks))
    yield "fake", sampling_calls(config, train, config.variants[config.evaluation.baseline], fakes)

    for name, member in config.members.items():
        settings = member_settings(config.discriminator, member)
        split = split_pairs(train, config.fake.images, settings.split, settings.images)
        images = lengths(settings, split)[1] * settings.batch_size
        yield f"discriminator/{name}", {("head_step", head_size(member)): VALIDATION * images}

    for name, variant in config.variants.items():
        yield f"guided/{name}", sampling_calls(config, train, variant, config.guided.images)

    d = INCEPTION_FEATURES if config.fid_network.source == "inception" else config.fid_network.features
    n, neighbours, variants = config.guided.images, min(config.guided.images, reference), len(config.variants)
    # Kernels of all pairs of images and distances of neighbours, of pairs of real images once; roots of covariances.
    pairs = variants * (n**2 + n * (reference + holdout) + 3 * neighbours**2) + reference**2 + holdout**2
    roots = variants * 12 * (n * d**2 + 10 * d**3)
    products = {PRODUCT: 2 * d * pairs / PRODUCT_FLOPS, (*PRODUCT, "cpu"): 2 * roots / PRODUCT_FLOPS}
    yield "evaluation", {FEATURES: variants * n, **products}

    shown = [config.variants[name] for name in {config.evaluation.baseline, *config.report.log_ratios}]
    each = (sampling_calls(config, train, row, config.report.trajectory_images) for row in shown)
    yield "report", sum(map(Counter, each), Counter[Kind]())


def sampling_calls(config: Config, train: int, variant: Variant, images: int) -> dict[Kind, float]:
    """The denoiser evaluations of so many samples, and those of their guidance and of fitting its weights."""
    nfe = (2 * variant.steps - 1) * (1 if variant.autoguidance is None else 2)
    if not variant.members:
        return {DENOISER: nfe * images}
    heads = [head_size(config.members[name]) for name in variant.members]
    _, inside = guided_levels(variant)
    evaluations = (int(inside.sum()) if variant.w1 else 0) + (int(inside[1:].sum()) if variant.w2 else 0)
    held_out = (1 - config.discriminator.split.train) * min(train, config.members[variant.members[0]].images or train)
    fitted = DRAWS * min(held_out, FITTED_IMAGES) * int(inside.sum()) if variant.weights == "fitted" else 0.0
    return {DENOISER: nfe * images + fitted, ("guidance", *heads): images * evaluations + fitted * len(heads)}


def head_size(member: Member) -> HeadSettings | int:
    """What the cost of a member depends on: the size of a head, or the width of a whole network."""
    return member.network if member.kind == "head" else member.network.model_channels
