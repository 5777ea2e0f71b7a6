"""What no single section of a profile can see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discriminator_guidance.config.sections import Config


def impossible_sampling(config: Config) -> Iterator[str]:
    """Ranges that overlap, members that are not there, more pictures than are drawn.

    Args:
        config: whose sections are right by themselves.

    Returns:
        Each problem as "what is wrong; what to do".
    """
    fake, guided, members = config.fake, config.guided, config.discriminator.members
    for name, variant in guided.variants.items():
        for member in variant.members:
            if member not in members:
                yield f"guided.variants.{name}.members names {member!r}; choose among {', '.join(members)}"
    if "authors" in guided.variants:  # whose row of Table 3 says where the file goes, until it is there
        named = guided.variants["authors"].members
        if len(named) != 1 or (named[0] in members and not hasattr(members[named[0]], "path")):
            yield "guided.variants.authors is for one released discriminator; name one member of the one key path"
    same_streams = fake.seed == guided.seed
    if same_streams and max(fake.seed_start, guided.seed_start) < min(
        fake.seed_start + fake.images, guided.seed_start + guided.ranges * guided.images
    ):
        yield "fake and guided draw the same sample indices; move guided.seed_start"
    used = config.discriminator.images
    if used is not None and used > fake.images:
        yield f"discriminator.images needs {used} fakes, fake.images is {fake.images}; lower the one or raise the other"
    limits = {
        "guided.trajectory_images": guided.trajectory_images,
        "report.pictures": config.report.pictures,
        "evaluation.kid_subset_size": config.evaluation.kid_subset_size,
        "evaluation.neighborhood": config.evaluation.neighborhood + 1,
    }
    for key, value in limits.items():
        if value > guided.images:
            yield f"{key} needs {value} pictures, guided.images is {guided.images}; lower the one or raise the other"


def impossible_networks(config: Config) -> Iterator[str]:
    """Sizes that cannot be halved, attention at sizes that do not occur, heads that do not divide their channels.

    Args:
        config: whose sections are right by themselves.

    Returns:
        Each problem as "what is wrong; what to do"; networks that come from files are judged when they are read.
    """
    size, attention, divisible = config.real.image_size, {}, {}
    if config.score.source == "train":
        score = config.score.network
        attention["score.network.attn_resolutions"] = (score.channel_mult, score.attn_resolutions)
        if score.model_channels % 4:
            yield f"score.network.model_channels = {score.model_channels}; use a multiple of 4"
    if config.extractor.source == "train":
        extractor = config.extractor.network
        attention["extractor.network.attention_resolutions"] = (extractor.channel_mult, extractor.attention_resolutions)
        widths = {factor * extractor.model_channels for factor in extractor.channel_mult}
        divisible["extractor.network"] = (extractor.num_head_channels, widths)
    heads = {"discriminator.network": config.discriminator.network}
    for name, member in config.discriminator.members.items():
        if not hasattr(member, "path") and member.differs.network is not None:
            heads[f"discriminator.members.{name}.differs.network"] = member.differs.network
    divisible |= {key: (head.num_head_channels, {head.model_channels}) for key, head in heads.items()}
    for key, (levels, wanted) in attention.items():
        sizes = [size >> level for level in range(len(levels))]
        if sizes[-1] << (len(sizes) - 1) != size or sizes[-1] < 1:
            section = key.split(".")[0]
            halvings = len(sizes) - 1
            yield f"real.image_size = {size} cannot be halved {halvings} times; shorten {section}.network.channel_mult"
        for resolution in wanted:
            if resolution not in sizes:
                yield f"{key} names {resolution}; choose among {', '.join(map(str, sizes))}"
    if config.fid_network.source == "train" and size % 4:
        yield f"real.image_size = {size}; fid_network halves twice, use a multiple of 4"
    for key, (channels, widths) in divisible.items():
        for width in sorted(widths):
            if width % channels:
                yield f"{key}.num_head_channels = {channels}; use a divisor of {width}"


def impossible_study(config: Config) -> Iterator[str]:
    """Tuning samples that are used elsewhere, head widths that their attention heads do not divide.

    Args:
        config: whose sections are right by themselves.

    Returns:
        Each problem as "what is wrong; what to do".
    """
    fake, guided, tuning = config.fake, config.guided, config.study.tuning
    ends = tuning.seed_start + tuning.images
    for name, used, images in (("fake", fake, fake.images), ("guided", guided, guided.ranges * guided.images)):
        overlap = max(used.seed_start, tuning.seed_start) < min(used.seed_start + images, ends)
        if used.seed == tuning.seed and overlap:
            yield f"{name} and study.tuning draw the same sample indices; move study.tuning.seed_start"
    channels = config.discriminator.network.num_head_channels
    for width in config.study.discriminator.model_channels:
        if width % channels:
            yield (
                f"study.discriminator.model_channels names {width}, no multiple of "
                f"discriminator.network.num_head_channels {channels}; choose multiples of it"
            )
    yield from _plain_mean_not_searched(config)


def _plain_mean_not_searched(config: Config) -> Iterator[str]:
    plain, search = config.guided.variants.get("ensemble_probability"), config.study.ensemble
    if plain is None:  # said by the study itself: a profile without an ensemble needs none
        return
    window = plain.window or (config.guided.time_min, config.guided.time_max)
    given = {"w1": plain.w1, "w2": plain.w2, "time_min": window[0], "time_max": window[1]}
    for key, value in given.items():
        low, high = getattr(search, key)
        if not low <= value <= high:
            yield (
                f"study.ensemble.{key} leaves out {value:g} of guided.variants.ensemble_probability, where the search "
                f"starts; widen it"
            )
    for key, choice in (("rules", plain.rule), ("boosting", plain.boosting)):
        if choice not in getattr(search, key):
            yield f"study.ensemble.{key} leaves out {choice} of guided.variants.ensemble_probability; add it"


def impossible_factorial(config: Config) -> Iterator[str]:
    """Members that cannot be trained at the levels, samples that are used elsewhere.

    Args:
        config: whose sections are right by themselves.

    Returns:
        Each problem as "what is wrong; what to do".
    """
    plan, members = config.factorial, config.discriminator.members
    for name in plan.members:
        if not hasattr(members.get(name), "epochs"):
            yield f"factorial.members names {name!r}, which is not trained here; choose rows of discriminator.members"
            continue
        own = getattr(members[name], "differs", None)
        if own is not None and (own.init, own.reshuffle) != (None, None):
            yield f"factorial.members names {name!r}, whose own init or reshuffle hides a factor; remove it from there"
    first, last = plan.seed_start, plan.seed_start + len(plan.training_seeds) * plan.images
    for word, used in (("fake", config.fake), ("guided", config.guided), ("study.tuning", config.study.tuning)):
        count = used.images * getattr(used, "ranges", 1)
        if used.seed == config.guided.seed and max(first, used.seed_start) < min(last, used.seed_start + count):
            yield f"factorial and {word} draw the same sample indices; move factorial.seed_start"
    if plan.training_images is not None and plan.training_images > config.fake.images:
        yield (
            f"factorial.training_images needs {plan.training_images} fakes, fake.images is {config.fake.images}; "
            "lower the one or raise the other"
        )
