"""Sections of the settings that contradict each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dguide.settings.sections import Config

ADM_SIZES = (8, 16, 32, 64)  # pixels, of the images of released classifiers


def problems(config: Config) -> Iterator[str]:
    """Each contradiction as "what is wrong; what to do"."""
    for check in (_paths, _members, _names, _sample_ranges, _networks, _studies):
        yield from check(config)


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
    networks: dict[str, object] = {f"models/{config.profile}/extractor": None}  # of heads, by where a member may start
    for name in config.members:
        row = config.member(name)
        if row.start.startswith("models/"):
            if row.start not in networks:
                allowed = ", ".join([*networks, "a file under data/raw"])
                yield f"members.{name}.start: {row.start} is no fresh start and no member above; choose among {allowed}"
            elif networks[row.start] not in (None, row.network):
                yield f"members.{name} continues {row.start} and needs its network; change one of them"
            if not row.epochs:
                yield f"members.{name}.epochs is 0, which is for a released head; raise it"
        if isinstance(row.checkpoint, int) and row.checkpoint > row.epochs > 0:
            yield f"members.{name} uses checkpoint {row.checkpoint} of {row.epochs} epochs; lower it"
        networks[f"models/{config.profile}/discriminator/{name}"] = row.network
        trained, runtime = row.precision or config.runtime.training_precision, config.runtime
        if {trained, runtime.sampling_precision} == {"float32", "tf32"}:
            yield f"members.{name} mixes float32 and tf32, which a process cannot; change precision or section runtime"


def _names(config: Config) -> Iterator[str]:
    members, variants = config.members, config.variants
    snapshots = config.score.snapshots if config.score.source == "train" else {}
    baseline = config.evaluation.baseline
    if baseline not in variants or variants[baseline].members:
        yield f"evaluation.baseline: {baseline} is no variant without members; add it to variants, or name another"
    named: list[tuple[str, str | None, Collection[str]]] = []
    for key, variant in variants.items():
        named += [(f"variants.{key}.members", name, members) for name in variant.members]
        named += [(f"variants.{key}.network", variant.network, snapshots)]
        if variant.autoguidance is not None:
            named += [(f"variants.{key}.autoguidance", variant.autoguidance.network, snapshots)]
        if variant.weights == "fitted" and config.cond:
            yield f"variants.{key}.weights: fitted are not for a class-conditional profile; write equal"
    for key in ("primary", "samples", "log_ratios", "compare", "sampling"):
        named += [(f"report.{key}", name, variants) for name in getattr(config.report, key)]
    if config.report.primary[0] == baseline:
        yield f"report.primary compares {baseline}, to which every difference refers; write another variant first"
    ensembles = {name for name, variant in variants.items() if len(variant.members) > 1 and not variant.autoguidance}
    if config.study is not None:
        named += [("study.start", config.study.start, ensembles)]
        for key, names in config.study.factorial.sets.items():
            named += [(f"study.factorial.sets.{key}", name, members) for name in names]
    for key, name, known in named:
        if name is not None and name not in known:
            yield f"{key} names {name!r}; choose among {', '.join(known) or 'none'}"


def _sample_ranges(config: Config) -> Iterator[str]:
    fake, guided = config.fake, config.guided
    spans: dict[str, Any] = {"fake": fake, "guided": guided}
    if config.study is not None:
        spans |= {"study.tuning": config.study.tuning, "study.factorial": config.study.factorial}
    for (first, one), (second, other) in combinations(spans.items(), 2):
        apart = one.seed_start + one.images <= other.seed_start or other.seed_start + other.images <= one.seed_start
        if not apart and getattr(one, "seed", guided.seed) == getattr(other, "seed", guided.seed):
            yield f"{first} and {second} draw the same sample indices; move {second}.seed_start"
    limits = {
        "discriminator.images": (config.discriminator.images or 0, "fake.images", fake.images),
        "evaluation.neighborhood": (config.evaluation.neighborhood + 2, "guided.images", guided.images),
    }
    for key, (wanted, limit, images) in limits.items():
        if wanted > images:
            yield f"{key} needs {wanted} images, {limit} is {images}; lower the one or raise the other"


def _networks(config: Config) -> Iterator[str]:
    size, levels = config.real.image_size, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]()
    if config.score.source == "train":
        levels["score.network"] = (config.score.network.channel_mult, config.score.network.attn_resolutions)
        if (taps := list(config.score.network.resample_filter)) not in ([1, 1], [1, 3, 3, 1]):
            yield f"score.network.resample_filter: {taps} is none of the two; write [1, 1] or [1, 3, 3, 1]"
    if config.extractor.source == "train":
        network = config.extractor.network
        levels["extractor.network"] = (network.channel_mult, network.attention_resolutions)
        for factor in network.channel_mult:
            if (width := factor * network.model_channels) % network.num_head_channels:
                yield f"extractor.network.num_head_channels = {network.num_head_channels}; use a divisor of {width}"
    elif size not in ADM_SIZES:
        yield f"real.image_size = {size}; an extractor of source adm takes {', '.join(map(str, ADM_SIZES))}"
    for key, (mults, attention) in levels.items():
        sizes = [size >> level for level in range(len(mults))]
        if sizes[-1] << (len(mults) - 1) != size:
            yield f"real.image_size = {size} cannot be halved {len(mults) - 1} times; shorten {key}.channel_mult"
        for resolution in set(attention).difference(sizes):
            yield f"{key} attends at {resolution} pixels; choose among {', '.join(map(str, sizes))}"
    if config.fid_network.source == "train" and size % 4:
        yield f"real.image_size = {size}; fid_network halves twice: use a multiple of 4"


def _studies(config: Config) -> Iterator[str]:
    if config.study is None:
        return
    channels = config.discriminator.network.num_head_channels
    for width in config.study.discriminator.model_channels:
        if width % channels:
            yield f"study.discriminator.model_channels names {width}; use multiples of {channels}, num_head_channels"
    if config.study.ensemble.fitted and config.cond:
        yield "study.ensemble.fitted: true is not for a class-conditional profile; write false"
    if (plain := config.variants.get(config.study.start)) is None:
        return
    low, high = plain.window or (config.guided.time_min, config.guided.time_max)
    starts = {"w1": plain.w1, "w2": plain.w2, "time_min": low, "time_max": high}
    for key, value in {**starts, "rules": plain.rule, "boosting": plain.boosting}.items():
        allowed = getattr(config.study.ensemble, key)
        if not (allowed[0] <= value <= allowed[1] if key in starts else value in allowed):
            yield f"study.ensemble.{key} leaves out {value} of variants.{config.study.start}, where it starts; add it"
