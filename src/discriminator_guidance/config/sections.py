"""The sections of a profile as frozen, bounded, fully explicit types."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag, model_validator
from pydantic import Discriminator as ChosenBy

from discriminator_guidance.config.consistency import (
    impossible_factorial,
    impossible_networks,
    impossible_sampling,
    impossible_study,
)
from discriminator_guidance.redaction import redact

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
VpTime = Annotated[float, Field(gt=0, le=1)]
TMin = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # becomes a folder
Place = Annotated[str, Field(min_length=1)]  # of a file: relative to the project folder, or absolute
Steps = Annotated[int, Field(ge=2, le=1000)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
Init = Literal["fresh", "sequential", "pretrained"]
Checkpoint = Literal["last", "best"] | Count
Smoothing = Annotated[float, Field(ge=0, lt=0.5)]
Share = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["float32", "tf32", "bfloat16", "auto"]
Rule = Literal["mean_probability", "mean_logit", "clipped_logit_mean"]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the low end {bounds[0]:g} must be below the high end {bounds[1]:g}")
    return bounds


# What may follow the ? of a database's address; of other keys nobody can tell whether they hold a secret.
OPEN_KEYS = frozenset(
    {"application_name", "charset", "connect_timeout", "gssencmode", "host", "passfile", "port", "service", "sslcert",
     "sslcrl", "sslkey", "sslmode", "sslrootcert", "target_session_attrs", "timeout"}
)  # fmt: skip


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
        keys = {key.lower() for key, _ in query}
        secret = parts.password is not None or "@" in parts.path + parts.fragment
        secret |= any("pass" in key for key in keys - OPEN_KEYS) or any(set(value) & set("=;@") for _, value in query)
    except ValueError:
        secret, keys = True, set()
    if secret:
        # The file is committed, and the message is logged: neither may hold it.
        raise ValueError("an address with a password; leave it out and set PGPASSWORD, or write a ~/.pgpass")
    if keys - OPEN_KEYS:
        raise ValueError(f"an address with a key that may hold a secret; take {', '.join(sorted(OPEN_KEYS))} alone")
    return url


def _distinct(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(choices)) != len(choices):
        raise ValueError("choices must not repeat")
    return choices


Counts = Annotated[tuple[Count, Count], AfterValidator(_ascending)]  # [low, high], both included
Positives = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
TMins = Annotated[tuple[TMin, TMin], AfterValidator(_ascending)]
Dropouts = Annotated[
    tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], AfterValidator(_ascending)
]
GuidanceWeights = Annotated[tuple[NonNegative, NonNegative], AfterValidator(_ascending)]
VpTimes = Annotated[tuple[VpTime, VpTime], AfterValidator(_ascending)]
Smoothings = Annotated[tuple[Smoothing, Smoothing], AfterValidator(_ascending)]


class Section(BaseModel):
    """A part of the configuration: frozen, complete, no unknown keys, no coercion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Runtime(Section):
    """How the machine computes."""

    device: Literal["cpu", "cuda", "auto"]
    training_precision: Precision
    sampling_precision: Precision
    threads: Count

    @model_validator(mode="after")
    def _one_kind_of_float32(self) -> Runtime:
        if {self.training_precision, self.sampling_precision} == {"float32", "tf32"}:
            raise ValueError("training and sampling precision cannot be float32 and tf32; choose one of the two")
        return self


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
    path: Place | None
    holdout_path: Place | None
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


class TrainedScore(Section):
    """Stage `score`, trained from scratch."""

    source: Literal["train"]
    sigma_data: Positive
    network: ScoreNetwork
    training: Training
    p_mean: Finite
    p_std: Positive
    ema_decay: Fraction


class EdmScore(Section):
    """Stage `score`, a released EDM checkpoint."""

    source: Literal["edm"]
    path: Place


Score = Annotated[TrainedScore | EdmScore, Field(discriminator="source")]


class ExtractorNetwork(Section):
    """Constructor arguments of the ADM encoder classifier."""

    model_channels: Count
    channel_mult: Widths
    num_res_blocks: Count
    attention_resolutions: tuple[Count, ...]
    num_head_channels: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class TrainedExtractor(Section):
    """Stage `extractor`, trained from scratch."""

    source: Literal["train"]
    network: ExtractorNetwork
    training: Training
    t_min: TMin
    uniform_time_fraction: Annotated[float, Field(ge=0, le=1)]


class AdmExtractor(Section):
    """Stage `extractor`, a released ADM classifier."""

    source: Literal["adm"]
    path: Place


Extractor = Annotated[TrainedExtractor | AdmExtractor, Field(discriminator="source")]


class TrainedFidNetwork(Section):
    """Stage `fid_network`, trained from scratch."""

    source: Literal["train"]
    name: Annotated[str, Field(min_length=1)]
    channels: tuple[Count, Count, Count, Count]
    features: Count
    training: Training

    @model_validator(mode="after")
    def _own_name(self) -> TrainedFidNetwork:
        if "inception" in self.name.lower():
            raise ValueError(f"name {self.name!r} must not say Inception: figures from a trained network are no FID")
        return self


class InceptionFidNetwork(Section):
    """Stage `fid_network`, torch-fidelity's Inception."""

    source: Literal["inception"]
    name: Literal["inception"]
    path: Place
    sha256: Sha256 | None


FidNetwork = Annotated[TrainedFidNetwork | InceptionFidNetwork, Field(discriminator="source")]


class Sampler(Section):
    """Heun sampler settings shared by `fake` and `guided`."""

    steps: Steps
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


class HeadNetwork(Section):
    """Constructor arguments of the discriminator head."""

    model_channels: Count
    num_res_blocks: Count
    num_head_channels: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class MemberDifferences(Section):
    """What a member has otherwise than the whole section; None is as the section says."""

    init: Init | None = None
    after: Name | None = None  # with init sequential; None: the trained one before it in the table
    importance_sampling: bool | None = None
    reshuffle: bool | None = None
    checkpoint: Checkpoint | None = None
    label_smoothing: Smoothing | None = None
    bagging: Share | None = None
    network: HeadNetwork | None = None


class TrainedMember(Section):
    """One row of Table 2, before the two factors."""

    seed: Seed
    epochs: Count
    learning_rate: Positive
    weight_decay: NonNegative
    t_min: TMin
    differs: MemberDifferences = MemberDifferences()


class ReleasedMember(Section):
    """A discriminator head that somebody else trained."""

    path: Place


def _kind_of_member(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "released" if "path" in keys else "trained"


Member = Annotated[
    Annotated[TrainedMember, Tag("trained")] | Annotated[ReleasedMember, Tag("released")], ChosenBy(_kind_of_member)
]


class Discriminator(Section):
    """Stage `discriminator`."""

    split: Split
    images: Annotated[int, Field(ge=10)] | None
    batch_size: Count
    epoch_factor: Positive
    learning_rate_factor: Positive
    importance_sampling: bool
    reshuffle: bool
    flip: bool
    init: Init
    pretrained: Place | None
    checkpoint: Checkpoint
    label_smoothing: Smoothing
    bagging: Share | None
    checkpoint_every: Count
    shared_features: bool
    grid_times: Count
    grid_times_per_image: Count
    network: HeadNetwork
    members: dict[Name, Member]

    @model_validator(mode="after")
    def _possible(self) -> Discriminator:
        if self.grid_times_per_image > self.grid_times:
            raise ValueError(
                f"grid_times_per_image {self.grid_times_per_image} must not exceed grid_times {self.grid_times}"
            )
        trained = [member for member in self.members.values() if isinstance(member, TrainedMember)]
        if self.pretrained is None and "pretrained" in [self.init, *(member.differs.init for member in trained)]:
            raise ValueError("init pretrained needs the path of a discriminator under pretrained")
        for name, member in self.members.items():
            if isinstance(member, TrainedMember):
                chosen = member.differs.checkpoint or self.checkpoint
                if isinstance(chosen, int) and chosen > member.epochs:
                    raise ValueError(f"checkpoint {chosen} must not exceed the {member.epochs} epochs of {name}")
        self._check_chains({name: row for name, row in self.members.items() if isinstance(row, TrainedMember)})
        return self

    def _check_chains(self, rows: dict[str, TrainedMember]) -> None:
        for place, (name, row) in enumerate(rows.items()):
            earlier, own = list(rows)[:place], row.differs
            if (own.init or self.init) != "sequential":
                if own.after is not None:
                    raise ValueError(f"{name} has after: {own.after} without init sequential; add it to differs")
                continue
            if own.after is not None and own.after not in earlier:
                raise ValueError(
                    f"{name} goes on from {own.after}, which is not trained before it; choose among "
                    f"{', '.join(earlier) or 'none, and move it down'}"
                )
            before = own.after or (earlier[-1] if earlier else None)
            if before and (rows[before].differs.network or self.network) != (own.network or self.network):
                raise ValueError(f"{name} goes on from {before} and needs its network; change differs of one of them")


class Tuning(Section):
    """What a study saw in a variant that it chose: the distance of the samples it was chosen by."""

    study: Name
    trial: Annotated[int, Field(ge=0)]
    fid: Finite
    images: Count
    start_fid: Finite | None = None  # of what the study began with, on the same samples


class Variant(Section):
    """One way of sampling: which members, how combined, how strongly."""

    members: tuple[str, ...]
    rule: Rule
    weights: Literal["equal"] | tuple[NonNegative, ...]
    w1: Finite
    w2: Finite
    boosting: bool
    window: tuple[VpTime, VpTime] | None = None  # None is as the section says
    tuning: Tuning | None = None  # None where no study chose the variant

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
        if self.window is not None and not (self.members and self.window[0] < self.window[1]):
            raise ValueError("window needs at least one member, and its first time below its second")
        return self


class Guided(SampleRange):
    """Stage `guided`."""

    ranges: Annotated[int, Field(ge=1, le=100)]
    time_min: VpTime
    time_max: VpTime
    trajectory_images: Count
    on_nonfinite: Literal["stop", "drop_guidance"]
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

    reference_statistics: Place | None
    batch_size: Count
    kid_subsets: Count
    kid_subset_size: Annotated[int, Field(ge=2)]
    neighborhood: Count
    seed: Seed


class Levels(Section):
    """The two levels of each factor: of our ensemble, and of what the study ran."""

    rule: tuple[Rule, Rule]
    init: tuple[Init, Init]
    epoch_factor: tuple[Positive, Positive]
    reshuffle: tuple[bool, bool]
    boosting: tuple[bool, bool]
    steps: tuple[Steps, Steps]
    w2: tuple[Finite, Finite]

    @model_validator(mode="after")
    def _differ(self) -> Levels:
        for name in type(self).model_fields:
            ours, study = getattr(self, name)
            if ours == study:
                raise ValueError(f"{name} has the level {ours} twice; give it two")
        if "pretrained" in self.init:
            raise ValueError("init pretrained is no level; use fresh and sequential")
        return self


class Factorial(Section):
    """Command `factorial`: a designed experiment on the causes of the study's result."""

    members: Annotated[tuple[str, ...], Field(min_length=2)]
    training_seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=3)]
    training_images: Annotated[int, Field(ge=10)] | None
    learning_rate_factor: Positive
    images: Annotated[int, Field(ge=2)]
    seed_start: Seed
    w1: Finite
    threads: Count
    levels: Levels

    @model_validator(mode="after")
    def _possible(self) -> Factorial:
        for name in ("members", "training_seeds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must not repeat")
        if not self.w1:
            raise ValueError("w1 must not be 0: it is the weight that is left where w2 is 0")
        return self


class Report(Section):
    """Stage `report`."""

    pictures: Annotated[int, Field(ge=1, le=64)]
    dpi: Annotated[int, Field(ge=50, le=600)]


class TuningRange(Section):
    """The samples on which searches compare distances: their own range, never evaluated on."""

    images: Annotated[int, Field(ge=2)]
    seed: Seed
    seed_start: Seed
    batch_size: Count


class Pruner(Section):
    """When a trial is given up: its value after an epoch is among the worst of the trials that got there."""

    startup_trials: Annotated[int, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    percentile: Annotated[float, Field(gt=0, le=100)]


class DiscriminatorStudy(Section):
    """Command `study discriminator`: what is searched, in units of Table 2."""

    epochs: Counts
    learning_rate: Positives
    weight_decay: Positives
    t_min: TMins
    importance_sampling: Annotated[tuple[bool, ...], Field(min_length=1), AfterValidator(_distinct)]
    model_channels: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_distinct)]
    num_res_blocks: Counts
    dropout: Dropouts
    label_smoothing: Smoothings
    bagging: Annotated[tuple[Share | None, ...], Field(min_length=1), AfterValidator(_distinct)]
    calibration_weight: NonNegative
    pruner: Pruner
    finalists: Count


class BatchPruner(Section):
    """When an ensemble is given up: its distance after a batch of tuning samples is among the worst so far."""

    startup_trials: Annotated[int, Field(ge=0)]
    percentile: Annotated[float, Field(gt=0, le=100)]


class EnsembleStudy(Section):
    """Command `study ensemble`: what is searched beside the members' weights."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1), AfterValidator(_distinct)]
    w1: GuidanceWeights
    w2: GuidanceWeights
    time_min: VpTimes
    time_max: VpTimes
    boosting: Annotated[tuple[bool, ...], Field(min_length=1), AfterValidator(_distinct)]
    pruner: BatchPruner

    @model_validator(mode="after")
    def _windows(self) -> EnsembleStudy:
        if self.time_min[1] >= self.time_max[0]:
            raise ValueError(f"time_min up to {self.time_min[1]} must stay below time_max from {self.time_max[0]}")
        return self


class Study(Section):
    """Command `study`."""

    seed: Seed
    storage: Annotated[str, Field(pattern=r"^[a-z0-9+]+://"), AfterValidator(_without_secrets)] | None
    threads: Count
    tuning: TuningRange
    discriminator: DiscriminatorStudy
    ensemble: EnsembleStudy


class Download(Section):
    """A file that somebody else publishes."""

    url: str | None
    redirect_hosts: tuple[str, ...]
    size: Count | None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None
    sha256: Sha256 | None
    path: str
    by_hand: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _safe(self) -> Download:
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme != "https" or not parts.hostname or parts.username is not None:
                raise ValueError(f"url must be https://<host>/..., it is {redact(self.url)}")
        place = PurePosixPath(self.path)
        hidden = any(part.startswith(".") for part in place.parts)  # ".." too, and .git, whose files can be programs
        if place.is_absolute() or hidden or len(place.parts) < 2 or "\\" in self.path:
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
    cond: bool
    real: Real
    score: Score
    extractor: Extractor
    fid_network: FidNetwork
    sampler: Sampler
    fake: Fake
    discriminator: Discriminator
    guided: Guided
    evaluation: Evaluation
    # Left out of every dump and hash: no stage reads it.
    factorial: Annotated[Factorial, Field(exclude=True)]
    report: Report
    # Left out of every dump and hash: no stage searches, and what a study finds enters a profile by its values.
    study: Annotated[Study, Field(exclude=True)]
    # Likewise: results depend on the bytes of a file, not on where they came from.
    fetch: Annotated[Fetch, Field(exclude=True)]

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for problem in (
            *impossible_sampling(self),
            *impossible_networks(self),
            *impossible_study(self),
            *impossible_factorial(self),
        ):
            raise ValueError(problem)
        return self
