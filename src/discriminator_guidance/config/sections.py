"""The sections of the settings as frozen, bounded, fully explicit types; configs/mini.yaml explains every key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
VpTime = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # becomes a folder
Path = Annotated[str, Field(min_length=1)]  # relative to the project folder, or absolute
Steps = Annotated[int, Field(ge=2, le=1000)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
Checkpoint = Literal["last", "best"] | Count
Smoothing = Annotated[float, Field(ge=0, lt=0.5)]
Share = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["float32", "tf32", "bfloat16", "auto"]
Rule = Literal["mean_probability", "mean_logit", "clipped_logit_mean", "shrunk_mean_logit"]
Objective = Literal["cross_entropy", "score_matching", "both"]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the low end {bounds[0]:g} must be below the high end {bounds[1]:g}")
    return bounds


def _distinct(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(choices)) != len(choices):
        raise ValueError("choices must not repeat")
    return choices


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or "pass" in parts.query.lower()
    except ValueError:
        secret = True
    if secret:  # the file is committed, and the message is logged: neither may hold it
        raise ValueError("an address with a password; leave it out and set PGPASSWORD, or write a ~/.pgpass")
    return url


def _under_raw(path: str) -> str:
    parts = PurePosixPath(path).parts
    if parts[:2] != ("data", "raw") or len(parts) < 3 or any(part.startswith(".") for part in parts) or "\\" in path:
        raise ValueError(f"{path!r} must lead to a file under data/raw")
    return path


Range = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]  # [low, high], both included
CountRange = Annotated[tuple[Count, Count], AfterValidator(_ascending)]
TimeRange = Annotated[tuple[VpTime, VpTime], AfterValidator(_ascending)]
Choices = AfterValidator(_distinct)


class Section(BaseModel):
    """A part of the settings: frozen, complete, no unknown keys, no coercion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def _problems(self) -> Iterator[str]:
        """Each contradiction in the section as "what is wrong; what to do"."""
        yield from ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self


class Runtime(Section):
    """How the machine computes."""

    device: Literal["cpu", "cuda", "auto"]
    training_precision: Precision
    sampling_precision: Precision
    threads: Count

    def _problems(self) -> Iterator[str]:
        if {self.training_precision, self.sampling_precision} == {"float32", "tf32"}:
            yield "training and sampling precision cannot be float32 and tf32; choose one of the two"


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
    path: Path
    holdout_path: Path
    image_size: Annotated[int, Field(ge=8, le=64)]
    holdout_fraction: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    note: Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\r\n]*$")] | None

    def _problems(self) -> Iterator[str]:
        separate = self.separate_holdout is not None
        if separate and self.source != "images":
            yield f"holdout_path must be path with source {self.source}; copy it"
        if self.source == "cifar10" and self.image_size > 32:
            yield f"image_size {self.image_size} must not exceed the 32 pixels of cifar10; lower it"
        if (separate or self.source == "cifar10") == (self.holdout_fraction > 0):
            yield "holdout_fraction must be 0 where held-out images come from cifar10 or a holdout_path, else above 0"

    @property
    def separate_holdout(self) -> str | None:
        """Where held-out images come from if not from `path`."""
        return None if self.holdout_path == self.path else self.holdout_path


class ScoreNetwork(Section):
    """Constructor arguments of SongUNet, under their original names."""

    model_channels: Annotated[int, Field(ge=4, multiple_of=4)]
    channel_mult: Widths
    num_blocks: Count
    attn_resolutions: tuple[Count, ...]
    dropout: Dropout
    embedding_type: Literal["positional", "fourier"]
    encoder_type: Literal["standard", "residual"]
    channel_mult_noise: Literal[1, 2]
    resample_filter: Widths


class TrainedScore(Section):
    """Stage `score`, trained from scratch."""

    source: Literal["train"]
    path: Path
    sigma_data: Positive
    network: ScoreNetwork
    training: Training
    p_mean: Finite
    p_std: Positive
    ema_decay: Fraction
    snapshots: dict[Name, Count]

    def _problems(self) -> Iterator[str]:
        if self.training.decay_fraction and max(self.snapshots.values(), default=0) > self.training.iterations:
            yield "snapshots after the last iteration need a learning rate: set training.decay_fraction to 0"


class EdmScore(Section):
    """Stage `score`, a released EDM checkpoint."""

    source: Literal["edm"]
    path: Path


class ExtractorNetwork(Section):
    """Constructor arguments of the ADM encoder classifier."""

    model_channels: Count
    channel_mult: Widths
    num_res_blocks: Count
    attention_resolutions: tuple[Count, ...]
    num_head_channels: Count
    dropout: Dropout


class TrainedExtractor(Section):
    """Stage `extractor`, trained from scratch."""

    source: Literal["train"]
    path: Path
    network: ExtractorNetwork
    training: Training
    t_min: Fraction
    uniform_time_fraction: Annotated[float, Field(ge=0, le=1)]


class AdmExtractor(Section):
    """Stage `extractor`, a released ADM classifier."""

    source: Literal["adm"]
    path: Path


class TrainedFidNetwork(Section):
    """Stage `fid_network`, trained from scratch."""

    source: Literal["train"]
    path: Path
    name: Annotated[str, Field(min_length=1)]
    channels: tuple[Count, Count, Count, Count]
    features: Count
    training: Training

    def _problems(self) -> Iterator[str]:
        if "inception" in self.name.lower():
            yield f"name {self.name!r} must not say Inception: its figures are no FID; choose another"


class InceptionFidNetwork(Section):
    """Stage `fid_network`, torch-fidelity's Inception."""

    source: Literal["inception"]
    path: Path
    name: Literal["inception"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


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

    def _problems(self) -> Iterator[str]:
        if self.sigma_min >= self.sigma_max:
            yield f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}"
        if self.s_min > self.s_max:
            yield f"s_min {self.s_min} must not exceed s_max {self.s_max}"


class SampleRange(Section):
    """Which samples are drawn: the per-sample streams of a seed, from an index on."""

    images: Annotated[int, Field(ge=2)]
    seed: Seed
    seed_start: Seed
    batch_size: Count


class Fake(SampleRange):
    """Stage `fake`."""

    shard_size: Count


class Guided(SampleRange):
    """Stage `guided`, what all variants share."""

    shard_size: Count
    time_min: VpTime
    time_max: VpTime
    trajectory_images: Count

    def _problems(self) -> Iterator[str]:
        if self.time_min >= self.time_max:
            yield f"time_min {self.time_min} must be below time_max {self.time_max}"


class Split(Section):
    """Shares of real + fake for training, validation and test."""

    train: Fraction
    validation: Fraction
    test: Fraction
    seed: Seed

    def _problems(self) -> Iterator[str]:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            yield f"train + validation + test must be 1, they are {total:g}"


class HeadNetwork(Section):
    """Constructor arguments of the discriminator head."""

    model_channels: Count
    num_res_blocks: Count
    num_head_channels: Count
    dropout: Dropout

    def _problems(self) -> Iterator[str]:
        if self.model_channels % self.num_head_channels:
            yield f"num_head_channels = {self.num_head_channels}; use a divisor of {self.model_channels}"


class Discriminator(Section):
    """Stage `discriminator`, what all members share unless a row says otherwise."""

    split: Split
    images: Annotated[int, Field(ge=10)] | None
    batch_size: Count
    epoch_factor: Positive
    learning_rate_factor: Positive
    importance_sampling: bool
    reshuffle: bool
    flip: bool
    checkpoint: Checkpoint
    label_smoothing: Smoothing
    bagging: Share | None
    ema_decay: Fraction | None
    decay_fraction: Annotated[float, Field(ge=0, le=1)]
    shift: Annotated[int, Field(ge=0, le=8)]
    objective: Objective
    checkpoint_every: Count
    grid_times: Count
    grid_times_per_image: Count
    network: HeadNetwork

    def _problems(self) -> Iterator[str]:
        if self.grid_times_per_image > self.grid_times:
            yield f"grid_times_per_image must not exceed grid_times {self.grid_times}; lower it"


class Member(Section):
    """One row of Table 2, before the two factors; what is None is as section `discriminator` says."""

    start: Path
    seed: Seed
    epochs: Annotated[int, Field(ge=0, lt=2**31)]
    learning_rate: Positive
    weight_decay: NonNegative
    t_min: Fraction
    importance_sampling: bool | None = None
    reshuffle: bool | None = None
    flip: bool | None = None
    checkpoint: Checkpoint | None = None
    label_smoothing: Smoothing | None = None
    bagging: Share | None = None
    ema_decay: Fraction | None = None
    decay_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    shift: Annotated[int, Field(ge=0, le=8)] | None = None
    objective: Objective | None = None
    images: Annotated[int, Field(ge=10)] | None = None  # of each kind; None: as section `discriminator` says
    permute_labels: bool | None = None  # a discriminator that can learn nothing
    precision: Precision | None = None  # None: runtime.training_precision
    network: HeadNetwork | None = None


class Autoguidance(Section):
    """Guidance by a worse version of the score network itself: D + (weight - 1) (D - D_worse)."""

    network: Name
    weight: Annotated[float, Field(gt=1, allow_inf_nan=False)]


class Variant(Section):
    """One way of sampling: which members, how combined, how strongly."""

    needs: Annotated[str, Field(pattern=r"^(score|discriminator(/[a-z][a-z0-9_]*)?)$")]
    members: tuple[Name, ...]
    rule: Rule
    weights: Literal["equal", "fitted"] | tuple[NonNegative, ...]
    w1: Finite
    w2: Finite
    boosting: bool
    window: TimeRange | None = None  # None: as section `guided` says
    steps: Steps | None = None  # None: as section `sampler` says
    s_churn: NonNegative | None = None
    network: Name | None = None  # a snapshot of the score network; None: the score network itself
    autoguidance: Autoguidance | None = None

    def _problems(self) -> Iterator[str]:
        members = self.members
        if len(set(members)) != len(members):
            yield "members must not repeat"
        if self.weights == "fitted" and (not members or self.rule != "mean_logit"):
            yield "weights: fitted are of logits; name members, and write rule: mean_logit"
        if isinstance(self.weights, tuple):
            if len(self.weights) != len(members):
                yield f"weights has {len(self.weights)} entries for {len(members)} members"
            if not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
                yield f"weights must sum to 1, they sum to {sum(self.weights):g}"
        if not members and (self.w1 or self.w2 or self.boosting or self.window):
            yield "w1, w2, boosting and window need at least one member"
        if members and not (self.w1 or self.w2):
            yield "w1 = w2 = 0 leaves members without effect: raise one, or name no members"
        if self.boosting and not self.w1:
            yield "boosting acts on the Euler step: it needs w1 other than 0"
        needs = "score" if not members else f"discriminator/{members[0]}" if len(members) == 1 else "discriminator"
        if self.needs != needs:
            yield f"needs: {self.needs} does not fit the members; write needs: {needs}"


class Evaluation(Section):
    """Stage `evaluation`."""

    reference: Path
    batch_size: Count
    kid_subsets: Count
    kid_subset_size: Annotated[int, Field(ge=2)]
    neighborhood: Count
    seed: Seed

    @property
    def reference_statistics(self) -> str | None:
        """An .npz with mu and sigma in place of the features of the real images."""
        return None if self.reference.startswith("models/") else self.reference


class Report(Section):
    """Stage `report`."""

    images: Annotated[int, Field(ge=1, le=64)]
    dpi: Annotated[int, Field(ge=50, le=600)]
    primary: tuple[Name, Name]  # a variant and the one it is compared with, chosen before the results were seen


class Pruner(Section):
    """A trial stops early if its value is among the worst of the trials that got as far."""

    startup_trials: Annotated[int, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    percentile: Annotated[float, Field(gt=0, le=100)]


class DiscriminatorStudy(Section):
    """Command `study discriminator`: what is searched, in units of Table 2."""

    epochs: CountRange
    learning_rate: Range
    weight_decay: Range
    t_min: TimeRange
    importance_sampling: Annotated[tuple[bool, ...], Field(min_length=1), Choices]
    model_channels: Annotated[tuple[Count, ...], Field(min_length=1), Choices]
    num_res_blocks: CountRange
    dropout: Annotated[tuple[Dropout, Dropout], AfterValidator(_ascending)]
    label_smoothing: Annotated[tuple[Smoothing, Smoothing], AfterValidator(_ascending)]
    bagging: Annotated[tuple[Share | None, ...], Field(min_length=1), Choices]
    calibration_weight: NonNegative
    pruner: Pruner
    finalists: Count


class EnsembleStudy(Section):
    """Command `study ensemble`: what is searched beside the members' weights."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1), Choices]
    w1: Annotated[tuple[NonNegative, NonNegative], AfterValidator(_ascending)]
    w2: Annotated[tuple[NonNegative, NonNegative], AfterValidator(_ascending)]
    time_min: TimeRange
    time_max: TimeRange
    boosting: Annotated[tuple[bool, ...], Field(min_length=1), Choices]
    pruner: Pruner

    def _problems(self) -> Iterator[str]:
        if self.time_min[1] >= self.time_max[0]:
            yield f"time_min up to {self.time_min[1]} must stay below time_max from {self.time_max[0]}"


class FactorialStudy(Section):
    """Command `study factorial`: the causes of the reproduction's result, each at [our level, the reproduction's]."""

    sets: Annotated[
        dict[Name, Annotated[tuple[Name, ...], Field(min_length=2), Choices]], Field(min_length=1)
    ]  # of members; the first has the full cube
    images: Annotated[int, Field(ge=10)]
    seed_start: Seed
    steps: Annotated[tuple[Steps, Steps], Choices]
    more_steps: tuple[Steps, ...]
    w1: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    w2: Annotated[tuple[Finite, Finite], Choices]
    boosting: Annotated[tuple[bool, bool], Choices]
    threads: Count


class Study(Section):
    """Command `study`."""

    seed: Seed
    storage: Annotated[str, Field(pattern=r"^[a-z0-9+]+://"), AfterValidator(_without_secrets)] | None
    threads: Count
    tuning: SampleRange
    discriminator: DiscriminatorStudy
    ensemble: EnsembleStudy
    factorial: FactorialStudy


class Download(Section):
    """A file that somebody else publishes."""

    url: Annotated[str, Field(pattern=r"^https://[^/@]+/.+$")] | None
    hash: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")] | None
    path: Annotated[Path, AfterValidator(_under_raw)]
    by_hand: Annotated[str, Field(min_length=1)]


class Fetch(Section):
    """Command `fetch`."""

    files: dict[str, Download]


SEED_STRIDE = 1000  # between the seeds of two replicates


class Config(Section):
    """All settings of one profile."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")]  # becomes a folder
    replicates: Annotated[int, Field(ge=1, le=100)]
    runtime: Runtime
    cond: bool
    real: Real
    score: Annotated[TrainedScore | EdmScore, Field(discriminator="source")]
    extractor: Annotated[TrainedExtractor | AdmExtractor, Field(discriminator="source")]
    fid_network: Annotated[TrainedFidNetwork | InceptionFidNetwork, Field(discriminator="source")]
    sampler: Sampler
    fake: Fake
    discriminator: Discriminator
    members: dict[Name, Member]
    guided: Guided
    variants: dict[Name, Variant]
    evaluation: Evaluation
    report: Report
    study: Study
    fetch: Fetch

    def _problems(self) -> Iterator[str]:
        from discriminator_guidance.config.checks import problems

        yield from problems(self)

    def replicate(self, number: int) -> Config:
        """The settings of one training replicate: new seeds for score network, extractor, fakes and members."""
        shift = number * SEED_STRIDE

        def moved(section: Any, **own: Any) -> Any:
            return section.model_copy(update={"seed": section.seed + shift, **own})

        networks = {
            word: section.model_copy(update={"training": moved(section.training)})
            for word in ("score", "extractor")
            if (section := getattr(self, word)).source == "train"
        }
        members = {name: moved(row) for name, row in self.members.items()}
        return self.model_copy(update={**networks, "fake": moved(self.fake), "members": members})

    def member(self, name: str) -> Member:
        """A member with every setting of its own, the section's where its row has none; factors are not applied."""
        row = self.members[name]
        shared = self.discriminator.model_dump()
        own = {key: value for key, value in row.model_dump().items() if value is not None}
        return Member.model_validate({**{key: shared[key] for key in Member.model_fields if key in shared}, **own})
