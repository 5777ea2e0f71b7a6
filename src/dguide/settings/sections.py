"""The sections of the settings as frozen, bounded, fully explicit types; configs/mini.yaml explains every key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dguide.settings import checks
from discriminator_guidance.errors import ConfigError

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
UnitInterval = Annotated[float, Field(ge=0, le=1)]
ManyImages = Annotated[int, Field(ge=10)]
Shift = Annotated[int, Field(ge=0, le=8)]
Precision = Literal["float32", "tf32", "bfloat16", "auto"]
Rule = Literal["mean_probability", "mean_logit", "clipped_logit_mean", "shrunk_mean_logit"]
Objective = Literal["cross_entropy", "score_matching", "both"]


Value = TypeVar("Value")


def _ascending(bounds: tuple[Any, Any]) -> tuple[Any, Any]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the low end {bounds[0]:g} must be below the high end {bounds[1]:g}")
    return bounds


def _distinct(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(choices)) != len(choices):
        raise ValueError("choices must not repeat")
    return choices


def _without_secrets(url: str) -> str:
    if re.search(r"://[^@]*:[^@]*@|\?.*pass", url, re.IGNORECASE):  # neither this file nor a message may hold it
        raise ValueError("an address with a password; leave it out and set PGPASSWORD, or write a ~/.pgpass")
    return url


Range = Annotated[tuple[Value, Value], AfterValidator(_ascending)]  # [low, high], both included
Levels = Annotated[tuple[Value, Value], AfterValidator(_distinct)]  # [ours, the reproduction's]
Distinct = Annotated[tuple[Value, ...], AfterValidator(_distinct)]
Choices = Annotated[Distinct[Value], Field(min_length=1)]


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
    decay_fraction: UnitInterval
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
    uniform_time_fraction: UnitInterval


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


class SampleRange(Section):
    """Which samples are drawn: the per-sample streams of a seed, from an index on."""

    images: Annotated[int, Field(ge=2)]
    seed: Seed
    seed_start: Seed
    batch_size: Count


class Guided(SampleRange):
    """Stage `guided`, what all variants share."""

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
    images: ManyImages | None
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
    decay_fraction: UnitInterval
    shift: Shift
    objective: Objective
    checkpoint_every: Count
    grid_times: Count
    grid_times_per_image: Count
    network: HeadNetwork


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
    decay_fraction: UnitInterval | None = None
    shift: Shift | None = None
    objective: Objective | None = None
    images: ManyImages | None = None  # of each kind; None: as section `discriminator` says
    permute_labels: bool | None = None  # a discriminator that can learn nothing
    precision: Precision | None = None  # None: runtime.training_precision
    network: HeadNetwork | None = None
    published: Name | None = None  # the published row of Table 2 beside it


class Autoguidance(Section):
    """Guidance by a worse version of the score network itself: D + (weight - 1) (D - D_worse)."""

    network: Name
    weight: Annotated[float, Field(gt=1, allow_inf_nan=False)]


class Variant(Section):
    """One way of sampling: which members, how combined, how strongly."""

    needs: Annotated[str, Field(pattern=r"^(score|discriminator(/[a-z][a-z0-9_]*)?)$")]
    members: Distinct[Name]
    rule: Rule
    weights: Literal["equal", "fitted"] | tuple[NonNegative, ...]
    w1: Finite
    w2: Finite
    boosting: bool
    window: Range[VpTime] | None = None  # None: as section `guided` says
    steps: Steps | None = None  # None: as section `sampler` says
    s_churn: NonNegative | None = None
    network: Name | None = None  # a snapshot of the score network; None: the score network itself
    autoguidance: Autoguidance | None = None
    published: Name | None = None  # the published row of Table 3 beside it

    def _problems(self) -> Iterator[str]:
        members = self.members
        if self.weights == "fitted" and (not members or self.rule != "mean_logit"):
            yield "weights: fitted are of logits; name members, and write rule: mean_logit"
        if self.rule == "shrunk_mean_logit" and (len(members) < 2 or self.weights != "equal"):
            yield "rule: shrunk_mean_logit is of two members or more with weights: equal; change one of them"
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

    baseline: Name  # the variant without guidance that every difference refers to
    reference: Path
    batch_size: Count
    neighborhood: Count
    seed: Seed


class Report(Section):
    """Stage `report`."""

    images: Annotated[int, Field(ge=1, le=64)]
    dpi: Annotated[int, Field(ge=50, le=600)]
    primary: tuple[Name, Name]  # a variant and the one it is compared with, chosen before the results were seen
    samples: Distinct[Name]  # the rows of Fig. 3
    log_ratios: Distinct[Name]  # variants whose log ratios are drawn
    compare: Distinct[Name]  # variants with which tables compare every other one, beside the baseline
    sampling: Distinct[Name]  # columns of Table 1
    trajectory_images: Count


class Pruner(Section):
    """A trial stops early if its value is among the worst of the trials that got as far."""

    startup_trials: Annotated[int, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    percentile: Annotated[float, Field(gt=0, le=100)]


class DiscriminatorStudy(Section):
    """Command `study discriminator`: what is searched, in units of Table 2."""

    epochs: Range[Count]
    learning_rate: Range[Positive]
    weight_decay: Range[Positive]
    t_min: Range[VpTime]
    importance_sampling: Choices[bool]
    model_channels: Choices[Count]
    num_res_blocks: Range[Count]
    dropout: Range[Dropout]
    label_smoothing: Range[Smoothing]
    bagging: Choices[Share | None]
    calibration_weight: NonNegative
    pruner: Pruner
    finalists: Count


class EnsembleStudy(Section):
    """Command `study ensemble`: what is searched."""

    fitted: bool  # whether weights fitted by noise level are tried too
    rules: Choices[Literal["mean_probability", "mean_logit", "clipped_logit_mean"]]  # which take weights
    w1: Range[NonNegative]
    w2: Range[NonNegative]
    time_min: Range[VpTime]
    time_max: Range[VpTime]
    boosting: Choices[bool]
    pruner: Pruner

    def _problems(self) -> Iterator[str]:
        if self.time_min[1] >= self.time_max[0]:
            yield f"time_min up to {self.time_min[1]} must stay below time_max from {self.time_max[0]}"


class FactorialStudy(Section):
    """Command `study factorial`: the causes of the reproduction's result; the first set has the full cube."""

    sets: Annotated[dict[Name, Annotated[Distinct[Name], Field(min_length=2)]], Field(min_length=1)]  # of members
    images: ManyImages
    seed_start: Seed
    steps: Levels[Steps]
    more_steps: tuple[Steps, ...]
    w1: Positive
    w2: Levels[Finite]
    boosting: Levels[bool]
    threads: Count


class Study(Section):
    """Command `study`."""

    seed: Seed
    start: Name  # the variant whose members the searches begin with
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
    path: Annotated[str, Field(pattern=r"^data/raw(/[^./\\][^/\\]*)+$")]  # never a way out
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
    fake: SampleRange
    discriminator: Discriminator
    members: dict[Name, Member]
    guided: Guided
    variants: dict[Name, Variant]
    evaluation: Evaluation
    report: Report
    study: Study | None
    fetch: Fetch

    def _problems(self) -> Iterator[str]:
        return checks.problems(self)

    @property
    def studies(self) -> Study:
        """Section `study`, for the commands that need it."""
        if self.study is None:
            remedy = "write that section; configs/mini.yaml has one"
            raise ConfigError(f"section study of profile {self.profile}", "study: null", remedy)
        return self.study

    def replicate(self, number: int) -> Config:
        """The settings of one training replicate: new seeds for score network, extractor, fakes and members."""
        shift = number * SEED_STRIDE

        def moved(section: Any) -> Any:
            return section.model_copy(update={"seed": section.seed + shift})

        networks = {
            word: section.model_copy(update={"training": moved(section.training)})
            for word in ("score", "extractor")
            if (section := getattr(self, word)).source == "train"
        }
        members = {name: moved(row) for name, row in self.members.items()}
        return self.model_copy(update={**networks, "fake": moved(self.fake), "members": members})

    def member(self, name: str) -> Member:
        """A member with every setting of its own, the section's where its row has none; factors are not applied."""
        row, shared = self.members[name], dict(self.discriminator)
        return row.model_copy(update={key: shared.get(key) for key, value in row if value is None})
