"""What no single section can see: sections that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discriminator_guidance.config.sections import Config


def problems(config: Config) -> Iterator[str]:
    """Each contradiction as "what is wrong; what to do"."""
    yield from _paths(config)
    yield from _members(config)
    yield from _variants(config)
    yield from _sample_ranges(config)
    yield from _networks(config)
    yield from _studies(config)


def _paths(config: Config) -> Iterator[str]:
    made = f"data/{config.profile}/real"
    for word in ("score", "extractor", "fid_network"):
        section = getattr(config, word)
        if (section.source == "train") != (section.path == made):
            what = f"{word}.path: {section.path} does not fit source {section.source}"
            yield f"{what}; write {made if section.source == 'train' else 'a file under data/raw'}"
    reference, features = config.evaluation.reference, f"models/{config.profile}/fid_network"
    if reference.startswith("models/") and reference != features:
        yield f"evaluation.reference: {reference} is no reference; write {features} or the path of an .npz"


def _members(config: Config) -> Iterator[str]:
    models, earlier = f"models/{config.profile}", dict[str, object]()
    for name, row in config.members.items():
        network = row.network or config.discriminator.network
        trained = [f"{models}/discriminator/{other}" for other in earlier]
        if row.start.startswith("models/") and row.start not in (f"{models}/extractor", *trained):
            allowed = ", ".join([f"{models}/extractor", *trained, "a file under data/raw"])
            yield f"members.{name}.start: {row.start} is no fresh start and no member above; choose among {allowed}"
        before = row.start.removeprefix(f"{models}/discriminator/")
        if before in earlier and earlier[before] != network:
            yield f"members.{name} continues {before} and needs its network; change one of them"
        if not row.epochs and row.start.startswith("models/"):
            yield f"members.{name}.epochs is 0, which is for a released head; raise it"
        checkpoint = row.checkpoint or config.discriminator.checkpoint
        if isinstance(checkpoint, int) and checkpoint > row.epochs > 0:
            yield f"members.{name} uses checkpoint {checkpoint} of {row.epochs} epochs; lower it"
        earlier[name] = network


def _variants(config: Config) -> Iterator[str]:
    snapshots = config.score.snapshots if config.score.source == "train" else {}
    for name, variant in config.variants.items():
        wanted = (variant.network, variant.autoguidance and variant.autoguidance.network)
        for snapshot in filter(None, wanted):
            if snapshot not in snapshots:
                choice = ", ".join(snapshots) or "none"
                yield f"variants.{name} names {snapshot!r}, no snapshot of score; choose among {choice}"
    if "edm" not in config.variants or config.variants["edm"].members:
        yield "variants must hold edm without members: every difference refers to it; add it"
    for name, variant in config.variants.items():
        if variant.weights == "fitted" and config.cond:
            yield f"variants.{name}.weights: fitted are not for a class-conditional profile; write equal"
        for member in variant.members:
            if member not in config.members:
                yield f"variants.{name}.members names {member!r}; choose among {', '.join(config.members)}"
    for name in config.report.primary:
        if name not in config.variants:
            yield f"report.primary names {name!r}; choose among {', '.join(config.variants)}"


def _sample_ranges(config: Config) -> Iterator[str]:
    fake, guided, tuning, factorial = config.fake, config.guided, config.study.tuning, config.study.factorial
    ranges = {
        "fake": (fake.seed, fake.seed_start, fake.images),
        "guided": (guided.seed, guided.seed_start, guided.images),
        "study.tuning": (tuning.seed, tuning.seed_start, tuning.images),
        "study.factorial": (guided.seed, factorial.seed_start, factorial.images),
    }
    for first, second in combinations(ranges, 2):
        (seed, start, count), (other_seed, other_start, other_count) = ranges[first], ranges[second]
        if seed == other_seed and max(start, other_start) < min(start + count, other_start + other_count):
            yield f"{first} and {second} draw the same sample indices; move {second}.seed_start"
    limits = {
        "discriminator.images": (config.discriminator.images or 0, "fake.images", fake.images),
        "guided.trajectory_images": (guided.trajectory_images, "guided.images", guided.images),
        "report.images": (config.report.images, "guided.images", guided.images),
        "evaluation.kid_subset_size": (config.evaluation.kid_subset_size, "guided.images", guided.images),
        "evaluation.neighborhood": (config.evaluation.neighborhood + 2, "guided.images", guided.images),
    }
    for key, (wanted, limit, images) in limits.items():
        if wanted > images:
            yield f"{key} needs {wanted} images, {limit} is {images}; lower the one or raise the other"


def _networks(config: Config) -> Iterator[str]:
    size = config.real.image_size
    levels = {}
    if config.score.source == "train":
        levels["score.network"] = (config.score.network.channel_mult, config.score.network.attn_resolutions)
    if config.extractor.source == "train":
        network = config.extractor.network
        levels["extractor.network"] = (network.channel_mult, network.attention_resolutions)
        for factor in network.channel_mult:
            if (width := factor * network.model_channels) % network.num_head_channels:
                yield f"extractor.network.num_head_channels = {network.num_head_channels}; use a divisor of {width}"
    for key, (mults, attention) in levels.items():
        halvings = len(mults) - 1
        if size % 2**halvings:
            yield f"real.image_size = {size} cannot be halved {halvings} times; shorten {key}.channel_mult"
        sizes = [size >> level for level in range(len(mults))]
        for resolution in attention:
            if resolution not in sizes:
                yield f"{key} attends at {resolution} pixels; choose among {', '.join(map(str, sizes))}"
    if config.fid_network.source == "train" and size % 4:
        yield f"real.image_size = {size}; fid_network halves twice: use a multiple of 4"


def _studies(config: Config) -> Iterator[str]:
    channels = config.discriminator.network.num_head_channels
    for width in config.study.discriminator.model_channels:
        if width % channels:
            yield f"study.discriminator.model_channels names {width}; use multiples of {channels}, num_head_channels"
    for key, names in config.study.factorial.sets.items():
        for name in names:
            if name not in config.members:
                yield f"study.factorial.sets.{key} names {name!r}; choose among {', '.join(config.members)}"
    plain, search = config.variants.get("mean_prob"), config.study.ensemble
    if plain is None:
        return
    window = plain.window or (config.guided.time_min, config.guided.time_max)
    for key, value in {"w1": plain.w1, "w2": plain.w2, "time_min": window[0], "time_max": window[1]}.items():
        low, high = getattr(search, key)
        if not low <= value <= high:
            yield f"study.ensemble.{key} leaves out {value:g} of variants.mean_prob, where it starts; widen it"
    for key, choice in (("rules", plain.rule), ("boosting", plain.boosting)):
        if choice not in getattr(search, key):
            yield f"study.ensemble.{key} leaves out {choice} of variants.mean_prob, where it starts; add it"
