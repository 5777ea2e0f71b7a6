"""The only reader of configuration: `configs/<profile>.yaml` as frozen, bounded, fully explicit types."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from discriminator_guidance.errors import ConfigError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
VpTime = Annotated[float, Field(gt=0, le=1)]
TMin = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # becomes a folder
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
Rule = Literal["mean_probability", "mean_logit", "clipped_logit_mean"]


class Section(BaseModel):
    """A part of the configuration: frozen, complete, no unknown keys, no coercion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Runtime(Section):
    """How the machine computes."""

    device: Literal["cpu", "cuda", "auto"]
    training_precision: Literal["float32", "bfloat16", "auto"]
    sampling_precision: Literal["float32", "bfloat16", "auto"]
    threads: Count


class Training(Section):
    """The common settings of a training loop counted in iterations."""

    seed: Seed
    iterations: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    decay_fraction: Annotated[float, Field(ge=0, le=1)]
    gradient_clip: Positive
    checkpoint_every: Count


class Real(Section):
    """Stage `real`."""

    source: Literal["digits", "cifar10", "images"]
    path: Annotated[str, Field(min_length=1)] | None
    holdout_path: Annotated[str, Field(min_length=1)] | None
    image_size: Annotated[int, Field(ge=8, le=64)]
    holdout_fraction: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    note: Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\r\n]*$")] | None

    @model_validator(mode="after")
    def _possible(self) -> Real:
        if (self.path is None) != (self.source == "digits"):
            raise ValueError(f"source {self.source} {'needs no path' if self.path else 'needs a path'}")
        if self.holdout_path is not None and self.source != "images":
            raise ValueError(f"holdout_path is for source images, not for {self.source}")
        if self.source == "cifar10" and self.image_size > 32:
            raise ValueError(f"image_size {self.image_size} must not exceed the 32 pixels of cifar10")
        held_out = "the test pictures of cifar10" if self.source == "cifar10" else self.holdout_path
        if held_out and self.holdout_fraction:
            raise ValueError(f"holdout_fraction must be 0, because the held-out pictures are {held_out}")
        if not held_out and not self.holdout_fraction:
            raise ValueError("holdout_fraction must be above 0 without a holdout_path")
        if self.path == self.holdout_path and self.path:
            raise ValueError("holdout_path must not be path: the held-out pictures would not be held out")
        return self


class ScoreNetwork(Section):
    """Constructor arguments of SongUNet, under their original names."""

    model_channels: Count
    channel_mult: Widths
    num_blocks: Count
    attn_resolutions: tuple[Count, ...]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    embedding_type: Literal["positional", "fourier"]
    encoder_type: Literal["standard", "residual"]
    channel_mult_noise: Literal[1, 2]
    resample_filter: Widths


class Score(Section):
    """Stage `score`."""

    source: Literal["train"]
    sigma_data: Positive
    network: ScoreNetwork
    training: Training
    p_mean: Finite
    p_std: Positive
    ema_decay: Fraction


class ExtractorNetwork(Section):
    """Constructor arguments of the ADM encoder classifier."""

    model_channels: Count
    channel_mult: Widths
    num_res_blocks: Count
    attention_resolutions: tuple[Count, ...]
    num_head_channels: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Extractor(Section):
    """Stage `extractor`."""

    source: Literal["train"]
    network: ExtractorNetwork
    training: Training
    t_min: TMin
    uniform_time_fraction: Annotated[float, Field(ge=0, le=1)]


class FidNetwork(Section):
    """Stage `fid_network`."""

    source: Literal["train"]
    name: Annotated[str, Field(min_length=1)]
    channels: tuple[Count, Count, Count, Count]
    features: Count
    training: Training


class Sampler(Section):
    """Heun sampler settings shared by `fake` and `guided`."""

    steps: Annotated[int, Field(ge=2, le=1000)]
    sigma_min: Positive
    sigma_max: Positive
    rho: Positive
    s_churn: NonNegative
    s_min: NonNegative
    s_max: Annotated[float, Field(ge=0)]
    s_noise: Positive
    eps_scale: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Sampler:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        if self.s_min > self.s_max:
            raise ValueError(f"s_min {self.s_min} must not exceed s_max {self.s_max}")
        return self


class SampleRange(Section):
    """Which samples are drawn: per-sample streams of a run seed, from an index on."""

    images: Annotated[int, Field(ge=2)]
    seed: Seed
    seed_start: Seed
    batch_size: Count
    shard_size: Count


class Fake(SampleRange):
    """Stage `fake`."""


class Split(Section):
    """Shares of real + fake for training, validation and test."""

    train: Fraction
    validation: Fraction
    test: Fraction
    seed: Seed

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"train + validation + test must be 1, they are {total:g}")
        return self


class Member(Section):
    """One row of Table 2, before the two factors."""

    seed: Seed
    epochs: Count
    learning_rate: Positive
    weight_decay: NonNegative
    t_min: TMin


class HeadNetwork(Section):
    """Constructor arguments of the discriminator head."""

    model_channels: Count
    num_res_blocks: Count
    num_head_channels: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Discriminator(Section):
    """Stage `discriminator`."""

    split: Split
    batch_size: Count
    epoch_factor: Positive
    learning_rate_factor: Positive
    importance_sampling: bool
    reshuffle: bool
    flip: bool
    checkpoint_every: Count
    grid_times: Count
    grid_times_per_image: Count
    network: HeadNetwork
    members: dict[Name, Member]

    @model_validator(mode="after")
    def _grid(self) -> Discriminator:
        if self.grid_times_per_image > self.grid_times:
            raise ValueError(
                f"grid_times_per_image {self.grid_times_per_image} must not exceed grid_times {self.grid_times}"
            )
        return self


class Variant(Section):
    """One way of sampling: which members, how combined, how strongly."""

    members: tuple[str, ...]
    rule: Rule
    weights: Literal["equal"] | tuple[NonNegative, ...]
    w1: Finite
    w2: Finite
    boosting: bool

    @model_validator(mode="after")
    def _simplex(self) -> Variant:
        if self.weights != "equal":
            if len(self.weights) != len(self.members):
                raise ValueError(f"weights has {len(self.weights)} entries for {len(self.members)} members")
            if not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
                raise ValueError(f"weights must sum to 1, they sum to {sum(self.weights):g}")
        if not self.members and (self.w1 or self.w2 or self.boosting):
            raise ValueError("w1, w2 and boosting need at least one member")
        if self.members and not (self.w1 or self.w2):
            raise ValueError("w1 = w2 = 0 leaves members without effect: raise one, or name no members")
        if self.boosting and not self.w1:
            raise ValueError("boosting acts on the Euler step: it needs w1 other than 0")
        if len(set(self.members)) != len(self.members):
            raise ValueError("members must not repeat")
        return self


class Guided(SampleRange):
    """Stage `guided`."""

    time_min: VpTime
    time_max: VpTime
    trajectory_images: Count
    variants: dict[Name, Variant]

    @model_validator(mode="after")
    def _window(self) -> Guided:
        if self.time_min >= self.time_max:
            raise ValueError(f"time_min {self.time_min} must be below time_max {self.time_max}")
        if "edm" not in self.variants:
            raise ValueError("variants must contain 'edm', the unguided one every difference refers to")
        if self.variants["edm"].members:
            raise ValueError("variant 'edm' must have no members: it is the unguided one")
        return self


class Evaluation(Section):
    """Stage `evaluation`."""

    batch_size: Count
    kid_subsets: Count
    kid_subset_size: Annotated[int, Field(ge=2)]
    neighborhood: Count
    seed: Seed


class Report(Section):
    """Stage `report`."""

    pictures: Annotated[int, Field(ge=1, le=64)]
    dpi: Annotated[int, Field(ge=50, le=600)]


class Download(Section):
    """A file that somebody else publishes."""

    url: str | None
    redirect_hosts: tuple[str, ...]
    size: Count | None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    path: str
    by_hand: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _safe(self) -> Download:
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme != "https" or not parts.hostname or parts.username is not None:
                raise ValueError(f"url must be https://<host>/..., it is {self.url}")
        place = PurePosixPath(self.path)
        if place.is_absolute() or ".." in place.parts or len(place.parts) < 2 or "\\" in self.path:
            raise ValueError(f"path must lead to a file in a folder of the project, it is {self.path!r}")
        return self


class Fetch(Section):
    """Command `fetch`."""

    files: dict[str, Download]

    @model_validator(mode="after")
    def _apart(self) -> Fetch:
        paths = [download.path for download in self.files.values()]
        if repeated := [path for path in paths if paths.count(path) > 1]:
            raise ValueError(f"two files have the path {repeated[0]}")
        return self


class Config(Section):
    """A whole profile."""

    runtime: Runtime
    real: Real
    score: Score
    extractor: Extractor
    fid_network: FidNetwork
    sampler: Sampler
    fake: Fake
    discriminator: Discriminator
    guided: Guided
    evaluation: Evaluation
    report: Report
    # Left out of every dump and hash: results depend on the bytes of a file, not on where they came from.
    fetch: Annotated[Fetch, Field(exclude=True)]

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for problem in (*_impossible_sampling(self), *_impossible_networks(self)):
            raise ValueError(problem)
        return self


def _impossible_sampling(config: Config) -> Iterator[str]:
    """What no single section can see, as "what is wrong; what to do"."""
    fake, guided, members = config.fake, config.guided, config.discriminator.members
    for name, variant in guided.variants.items():
        for member in variant.members:
            if member not in members:
                yield f"guided.variants.{name}.members names {member!r}; choose among {', '.join(members)}"
    same_streams = fake.seed == guided.seed
    if same_streams and max(fake.seed_start, guided.seed_start) < min(
        fake.seed_start + fake.images, guided.seed_start + guided.images
    ):
        yield "fake and guided draw the same sample indices; move guided.seed_start"
    limits = {
        "guided.trajectory_images": guided.trajectory_images,
        "report.pictures": config.report.pictures,
        "evaluation.kid_subset_size": config.evaluation.kid_subset_size,
        "evaluation.neighborhood": config.evaluation.neighborhood + 1,
    }
    for key, value in limits.items():
        if value > guided.images:
            yield f"{key} needs {value} pictures, guided.images is {guided.images}; lower the one or raise the other"


def _impossible_networks(config: Config) -> Iterator[str]:
    """Sizes that cannot be halved, attention at sizes that do not occur, heads that do not divide their channels."""
    size = config.real.image_size
    score, extractor, head = config.score.network, config.extractor.network, config.discriminator.network
    if score.model_channels % 4:
        yield f"score.network.model_channels = {score.model_channels}; use a multiple of 4"
    attention = {
        "score.network.attn_resolutions": (score.channel_mult, score.attn_resolutions),
        "extractor.network.attention_resolutions": (extractor.channel_mult, extractor.attention_resolutions),
    }
    for key, (levels, wanted) in attention.items():
        sizes = [size >> level for level in range(len(levels))]
        if sizes[-1] << (len(sizes) - 1) != size or sizes[-1] < 1:
            section = key.split(".")[0]
            halvings = len(sizes) - 1
            yield f"real.image_size = {size} cannot be halved {halvings} times; shorten {section}.network.channel_mult"
        for resolution in wanted:
            if resolution not in sizes:
                yield f"{key} names {resolution}; choose among {', '.join(map(str, sizes))}"
    if size % 4:
        yield f"real.image_size = {size}; fid_network halves twice, use a multiple of 4"
    divisible = {
        "extractor": (
            extractor.num_head_channels,
            {factor * extractor.model_channels for factor in extractor.channel_mult},
        ),
        "discriminator": (head.num_head_channels, {head.model_channels}),
    }
    for section, (heads, widths) in divisible.items():
        for width in sorted(widths):
            if width % heads:
                yield f"{section}.network.num_head_channels = {heads}; use a divisor of {width}"


def load_config(profile: str, root: Path) -> Config:
    """Read and check a profile.

    Args:
        profile: its name, the stem of a file in `configs/`.
        root: the project folder.

    Returns:
        The profile.

    Raises:
        ConfigError: no such file, not YAML, or a key that is missing, unknown, of the wrong type or out of range.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = root / "configs" / f"{profile}.yaml"
    shown = f"configs/{profile}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in (root / "configs").glob("*.yaml"))
        raise ConfigError(
            f"a profile file {shown}", "no such file", f"choose one of: {', '.join(known) or 'none here'}"
        )
    try:
        # YAML 1.2, as DVC reads it: 1e-5 is a number there, in YAML 1.1 it is a string.
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"YAML in {shown}", reason, "mend the syntax at the place named") from error
    return parse_config(data, shown)


def parse_config(data: object, shown: str) -> Config:
    """Check a profile that is already a mapping.

    Args:
        data: what the YAML file holds.
        shown: the file's name for messages.

    Returns:
        The profile.

    Raises:
        ConfigError: naming file, key, value and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"sections in {shown}", type(data).__name__, "see configs/mini.yaml for a whole one")
    try:
        # Through JSON, so that strict mode takes lists for tuples and still refuses "2" for 2.
        return Config.model_validate_json(json.dumps(data))
    except TypeError as error:
        raise ConfigError(f"plain values in {shown}", str(error), "use numbers, words, lists and maps") from error
    except ValidationError as error:
        raise _config_error(error, shown) from error


def _config_error(error: ValidationError, shown: str) -> ConfigError:
    errors: list[Any] = error.errors(include_url=False)
    # Of a union ("equal" or a list of weights) pydantic reports each branch; the last is about the list.
    branches = [e for e in errors if e["loc"][:4] == errors[0]["loc"][:4]]
    first = branches[-1] if "weights" in errors[0]["loc"] else errors[0]
    parts = [str(part) for part in first["loc"] if "[" not in str(part)]
    key = ".".join(parts)
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return ConfigError(f"key {key} in {shown}", f"no such key{more}", "add it; configs/mini.yaml documents each")
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"known keys in {shown}", f"{key} = {first['input']!r}{more}", "remove it or mend its spelling"
        )
    if first["type"] == "value_error":
        wrong, _, remedy = message.partition("; ")
        place = f"settings in {shown} that fit together" if not parts else f"a valid {key} in {shown}"
        return ConfigError(place, f"{wrong}{more}", remedy or f"change {key}")
    return ConfigError(f"a valid {key} in {shown}", f"{key} = {first['input']!r}{more}", message)
