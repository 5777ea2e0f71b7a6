"""All settings of a profile as frozen types and their only reader; configs/mini.yaml explains every key."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import field, fields, replace
from difflib import get_close_matches
from itertools import combinations, islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

import discriminator_guidance.core.settings as library
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.files import reason
from discriminator_guidance.core.settings import FEWEST, Limit, Settings

PARAMS = Path("params.yaml")
TABLES = ("members", "variants", "sets", "describe")  # of rows by name, which an overlay gives as a whole
COMMON = ("split", "grid_times", "grid_times_per_image")  # to all members: their test is one
SEED_STRIDE = 1000  # between the seeds of two replicates
MOST_PIECES = 50_000  # of the values as JSON, which aliases multiply
SIDES = {"fashion": 28, "cifar10": 32}  # pixels of sources with test images of their own

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # becomes a folder
File = Annotated[str, Field(min_length=1)]  # relative to the project folder, or absolute
Value = TypeVar("Value")
Sources = list[tuple[Any, Path]]  # contents of files with their lines: an overlay, and the whole on top of its base


def _ascending(bounds: tuple[Any, Any]) -> tuple[Any, Any]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the low end {bounds[0]:g} must be below the high end {bounds[1]:g}")
    return bounds


def _distinct(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(choices)) != len(choices):
        raise ValueError("choices must not repeat")
    return choices


Range = Annotated[tuple[Value, Value], AfterValidator(_ascending)]  # [low, high], both included
Distinct = Annotated[tuple[Value, ...], AfterValidator(_distinct)]
Choices = Annotated[Distinct[Value], Field(min_length=1)]


class Runtime(Settings):
    """How the machine computes."""

    device: Literal["cpu", "cuda", "auto"]
    training_precision: library.Precision
    sampling_precision: library.Precision
    threads: library.Count


class Splits(Settings):
    """Numbers of real images, no two of which are the same: what each network learns from, and the reference."""

    score: library.ManyImages
    discriminator: library.ManyImages  # and the extractor
    fid_network: library.ManyImages
    reference: library.ManyImages


class Real(Settings):
    """Stage `real`."""

    source: Literal["digits", "fashion", "cifar10", "images"]
    path: File
    holdout_path: File
    image_size: Annotated[int, Limit(low=8, high=64)]
    holdout_fraction: Annotated[float, Limit(low=0, below=1)]
    splits: Splits | None = None  # None: all share the training images
    score_shares: tuple[library.Share, ...] | None = None  # of each class, how much the score network's split keeps
    seed: library.Seed
    note: Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\r\n]*$")] | None


class Released(Generic[Value], Settings):
    """A network that somebody else trained."""

    source: Value
    path: File
    networks: ClassVar = ()


class TrainedScore(library.ScoreSettings):
    """Stage `score`, trained from scratch."""

    source: Literal["train"]
    path: File
    network: library.ScoreNetworkSettings
    snapshots: dict[Name, library.Count]
    finetuned: dict[Name, library.FineTuningSettings] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks beside the final one."""
        return (*self.snapshots, *self.finetuned)


class TrainedExtractor(Settings):
    """Stage `extractor`, trained from scratch: a time-conditional classifier of VP-noised images."""

    training: library.TrainingSettings
    t_min: library.Fraction = 1e-5  # smallest VP time
    uniform_time_fraction: library.UnitInterval = 0.5  # share of uniform times; others are importance-sampled
    source: Literal["train"]
    path: File
    network: library.ExtractorNetworkSettings


class TrainedFidNetwork(Settings):
    """Stage `fid_network`, trained from scratch."""

    channels: tuple[library.Count, library.Count, library.Count, library.Count] = (64, 64, 128, 128)
    features: library.Count = 64
    source: Literal["train"]
    path: File
    name: Annotated[str, Field(min_length=1)]
    training: library.TrainingSettings


class InceptionFidNetwork(Settings):
    """Stage `fid_network`, torch-fidelity's Inception."""

    source: Literal["inception"]
    path: File
    name: Literal["inception"]


class SampleRange(Settings):
    """Which samples are drawn: the per-sample streams of a seed, from an index on."""

    images: Annotated[int, Limit(low=2)]
    seed: library.Seed
    seed_start: library.Seed
    batch_size: library.Count


class Fake(SampleRange):
    """Stage `fake`."""

    networks: Distinct[Name] = ()  # other score networks whose samples are drawn too


class Guided(SampleRange):
    """Stage `guided`, what all variants share."""

    time_min: library.Share
    time_max: library.Share


class Discriminator(library.DiscriminatorSettings):
    """Stage `discriminator`: what a member's row leaves out."""

    network: library.HeadSettings
    epoch_factor: library.Positive
    learning_rate_factor: library.Positive


class Member(library.DiscriminatorSettings):
    """One row of Table 2, before the two factors, with what section `discriminator` says of the rest."""

    kind: Literal["head", "whole"] = "head"  # on the extractor's features, or a network of the noised images
    start: File
    network: library.HeadSettings  # of a whole network model_channels alone
    fakes: Name | None = None  # the score network whose samples it learns to tell from real images; None: the final one
    published: Literal["d0", "d1", "d2", "d3", "d4", "d5"] | None = None  # the published row of Table 2 beside it


class Autoguidance(Settings):
    """Guidance by a worse version of the score network itself: D + (weight - 1) (D - D_worse)."""

    network: Name
    weight: Annotated[float, Limit(above=1)]


class Variant(library.SamplerSettings):
    """One way of sampling; where its row is silent, sections `sampler` and `guided` hold."""

    needs: Annotated[str, Field(pattern=r"^(score|discriminator(/[a-z][a-z0-9_]*)?)$")]
    members: Distinct[Name] = ()
    rule: Literal["mean_probability", "mean_logit", "clipped_logit_mean", "shrunk_mean_logit"] = "mean_probability"
    weights: Literal["equal", "fitted"] | tuple[library.NonNegative, ...] = "equal"
    window: Range[library.Share]
    network: Name | None = None  # a snapshot of the score network, or a fine-tuned one; None: the score network itself
    baseline: Name | None = None  # what its differences refer to; None: evaluation.baseline
    logit_scale: library.Positive = 1.0  # the members' logits are multiplied by this
    logit_shift: library.Finite = 0.0  # and this is added, to see what a rule makes of them
    autoguidance: Autoguidance | None = None
    # The published row of Table 3 beside it.
    published: Literal["edm", "edm_paper", "authors", "authors_paper", "d0_table1", "s_clip"] | None = None

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        members = self.members
        changed = self.autoguidance or (self.logit_scale, self.logit_shift) != (1.0, 0.0)
        if self.weights == "fitted" and (not members or self.rule != "mean_logit" or changed):
            remedy = "name members, write rule: mean_logit, and leave autoguidance, logit_scale and logit_shift out"
            yield f"weights is fitted, which is for logits of members as they are; {remedy}"
        if self.rule == "shrunk_mean_logit" and (len(members) < 2 or self.weights != "equal"):
            yield "rule is shrunk_mean_logit, which is for two or more members with weights: equal; change one of them"
        weights = self.weights if isinstance(self.weights, tuple) else ()
        if weights and (len(weights) != len(members) or abs(sum(weights) - 1) > 1e-6):
            yield f"weights has {len(weights)} that sum to {sum(weights):g}; write one a member, with a sum of 1"
        if bool(members) != bool(self.w1 or self.w2):
            yield f"members is {list(members)}, w1 {self.w1:g}, w2 {self.w2:g}; write members with w1 or w2, or neither"
        if self.boosting and not self.w1:
            yield "boosting is true, and w1, which it strengthens, is 0; change one of them"


class Evaluation(Settings):
    """Stage `evaluation`."""

    baseline: Name  # the variant without guidance that every difference refers to
    reference: File
    batch_size: library.Count
    neighborhood: library.Count
    seed: library.Seed


class Report(Settings):
    """Stage `report`."""

    images: Annotated[int, Limit(low=1, high=64)]
    dpi: Annotated[int, Limit(low=50, high=600)]
    primary: tuple[Name, Name]  # a variant and the one it is compared with, chosen before the results were seen
    samples: Distinct[Name]  # the rows of Fig. 3
    log_ratios: Distinct[Name]  # variants whose log ratios are drawn
    sampling: Distinct[Name]  # columns of Table 1
    describe: dict[str, str]  # what variants and discriminator/<member> are, if they exist; settings tell the rest
    trajectory_images: library.Count


class DiscriminatorStudy(Settings):
    """Command `study discriminator`: what is searched, in units of Table 2."""

    epochs: Range[library.Count]
    learning_rate: Range[library.Positive]
    weight_decay: Range[library.Positive]
    t_min: Range[library.Share]
    importance_sampling: Choices[bool | library.UnitInterval]
    model_channels: Choices[library.Count]
    num_res_blocks: Range[library.Count]
    dropout: Range[library.Dropout]
    label_smoothing: Range[library.Smoothing]
    bagging: Choices[library.Share | None]
    calibration_weight: library.NonNegative
    finalists: library.Count


class EnsembleStudy(Settings):
    """Command `study ensemble`: what is searched."""

    fitted: bool  # whether weights fitted by noise level are tried too
    rules: Choices[Literal["mean_probability", "mean_logit", "clipped_logit_mean"]]  # which take weights
    w1: Range[library.NonNegative]
    w2: Range[library.NonNegative]
    time_min: Range[library.Share]
    time_max: Range[library.Share]
    boosting: Choices[bool]


class Change(Settings):
    """What a cell changes of the reproduction's; None: nothing."""

    logit_scale: library.Positive | None = None
    logit_shift: library.Finite | None = None
    window: Range[library.Share] | None = None
    steps: library.Steps | None = None
    w1: library.Positive | None = None
    w2: library.Finite | None = None
    boosting: bool | None = None


class FactorialStudy(Settings):
    """Command `study factorial`: the causes of the reproduction's result."""

    sets: Annotated[dict[Name, Annotated[Distinct[Name], Field(min_length=1)]], Field(min_length=1)]  # of members
    images: library.ManyImages
    seed_start: library.Seed
    steps: Choices[library.Steps]  # the reproduction's first
    w1: library.Positive
    w2: library.Finite
    boosting: bool
    changes: dict[Name, Change] = field(default_factory=dict)  # of the reproduction's cell, of one member and of all


class Study(Settings):
    """Command `study`."""

    seed: Annotated[int, Limit(low=0, high=2**31)]  # Optuna's samplers take 32 bits, trial numbers added
    start: Name  # the variant whose members the searches begin with
    storage: Annotated[str, Field(pattern=r"^[a-z0-9+]+://")] | None
    threads: library.Count
    tuning: SampleRange
    discriminator: DiscriminatorStudy
    ensemble: EnsembleStudy
    factorial: FactorialStudy


class Download(Settings):
    """A file that somebody else publishes."""

    url: Annotated[str, Field(pattern=r"^https://[^/@]+/.+$")] | None
    hash: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")] | None
    path: Annotated[str, Field(pattern=r"^data/raw(/[^./\\][^/\\]*)+$")]  # never a way out
    by_hand: Annotated[str, Field(min_length=1)]


class Config(Settings):
    """All settings of one profile."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")]  # becomes a folder
    replicates: Annotated[int, Limit(low=1, high=100)]
    runtime: Runtime
    cond: bool
    real: Real
    score: Annotated[TrainedScore | Released[Literal["edm"]], Field(discriminator="source")]
    extractor: Annotated[TrainedExtractor | Released[Literal["adm"]], Field(discriminator="source")]
    fid_network: Annotated[TrainedFidNetwork | InceptionFidNetwork, Field(discriminator="source")]
    sampler: library.SamplerSettings
    fake: Fake
    discriminator: Discriminator
    members: Annotated[dict[Name, Member], Field(min_length=1)]
    guided: Guided
    variants: dict[Name, Variant]
    evaluation: Evaluation
    report: Report
    study: Study | None = None
    fetch: dict[str, Download]  # by name

    def _problems(self) -> Iterator[str]:
        if self.profile == "raw":
            yield "profile is 'raw', whose folder data/raw holds what is fetched; choose another name"
        for key, value, choices in _choices(self):
            if value not in choices:
                yield f"{key} is {value!r}; choose among {', '.join(map(str, choices)) or 'none'}"
        yield from self._real_problems()
        yield from self._network_problems()
        yield from self._row_problems()
        yield from self._seed_problems()
        yield from () if self.study is None else self._study_problems(self.study)

    def _real_problems(self) -> Iterator[str]:
        real = self.real
        if (real.holdout_path != real.path or real.source in SIDES) == (real.holdout_fraction > 0):
            remedy = "write 0 where a source or a holdout_path has held-out images, else a number above 0"
            yield f"real.holdout_fraction is {real.holdout_fraction:g}; {remedy}"
        if real.source != "images" and real.holdout_path != real.path:
            yield f"real.holdout_path is {real.holdout_path}, and {real.source} has one source; write {real.path}"
        if real.score_shares and not real.splits:
            yield "real.score_shares thins a split, and real has no splits; write real.splits"
        if real.image_size > (most := SIDES.get(real.source, real.image_size)):
            yield f"real.image_size is {real.image_size}, and {real.source} has {most} pixels; write at most {most}"

    def _network_problems(self) -> Iterator[str]:
        real, score, fid_network = self.real, self.score, self.fid_network
        if score.source == "train":
            late = max(score.snapshots.values(), default=0)
            if late > score.training.iterations and score.training.decay_fraction:
                yield f"score.snapshots has {late}, after the last iteration; set training.decay_fraction to 0"
            if both := sorted({*score.snapshots} & {*score.finetuned}):
                yield f"score.finetuned has the name {both[0]} of a snapshot; change one of them"
            if self.cond and any(tuning.objective == "ddo" for tuning in score.finetuned.values()):
                yield "score.finetuned has objective: ddo, which is not for a class-conditional profile; write edm"
        if fid_network.source == "train" and "inception" in fid_network.name.lower():
            yield f"fid_network.name is {fid_network.name!r}, and the network is not Inception; change it"
        networks = {word: section.network for word, section in self.trained.items() if word != "fid_network"}
        times = max([2, *(len(network.channel_mult) - 1 for network in networks.values())])  # 2: the FID network
        if real.image_size % 2**times:
            yield f"real.image_size is {real.image_size}, which networks cannot halve {times} times; change it"
        for word, network in networks.items():
            attention = network.attn_resolutions if word == "score" else network.attention_resolutions
            sizes = [real.image_size >> level for level in range(len(network.channel_mult))]
            if elsewhere := sorted({*attention}.difference(sizes)):
                yield f"{word}.network attends at {elsewhere[0]} pixels; choose among {sizes}"

    def _row_problems(self) -> Iterator[str]:
        for name, row in self.members.items():
            above = self.members.get(row.start.removeprefix(f"models/{self.profile}/discriminator/"))
            if above and (above.kind, above.network, above.images) != (row.kind, row.network, row.images):
                yield f"members.{name} continues {row.start} with another kind, network or images; change one of them"
            if row.kind == "whole" and not row.start.startswith("models/"):
                yield f"members.{name}.kind is whole, but {row.start} is a head; choose kind: head"
            if (row.images or 0) > self.fake.images:
                yield f"members.{name}.images is {row.images}, and fake.images {self.fake.images}; change one of them"
            if {row.precision, self.runtime.sampling_precision} == {"float32", "tf32"}:
                yield f"members.{name} mixes float32 and tf32, which no process can; change it or section runtime"
        for name, variant in self.variants.items():
            if len({self.members[member].images for member in variant.members}) > 1:
                yield f"variants.{name}.members differ in their images, and so have no common test; name others"
            if {self.members[member].fakes for member in variant.members} - {variant.network}:
                yield f"variants.{name}.members learned from samples of another network; write network, or change them"
            if self.cond and variant.weights == "fitted":
                yield f"variants.{name}.weights is fitted, which is not for a class-conditional profile; write equal"

    def _seed_problems(self) -> Iterator[str]:
        spans: dict[str, Any] = {"fake": self.fake, "guided": self.guided}
        if self.study is not None:
            spans |= {"study.tuning": self.study.tuning, "study.factorial": self.study.factorial}
        seeds = {key: {getattr(span, "seed", self.guided.seed)} for key, span in spans.items()}
        seeds["fake"] = {self.fake.seed + number * SEED_STRIDE for number in range(self.replicates)}
        for (key, span), (later, other) in combinations(spans.items(), 2):
            first, end = max(span.seed_start, other.seed_start), min(s.seed_start + s.images for s in (span, other))
            if first < end and seeds[key] & seeds[later]:
                yield f"{later}.seed_start is {other.seed_start}, whose sample indices {key} draws too; move it"

    def _study_problems(self, study: Study) -> Iterator[str]:
        if study.storage and re.search(r"://[^@]*:[^@]*@|\?.*pass", study.storage, re.IGNORECASE):
            yield "study.storage is an address with a password; leave it out and set PGPASSWORD, or write a ~/.pgpass"
        if "none" in study.factorial.changes:
            yield "study.factorial.changes has the name none, which means no change; choose another"
        search, start, network = study.ensemble, self.variants[study.start], self.discriminator.network
        for width in study.discriminator.model_channels:
            if width % network.num_head_channels:
                yield f"study.discriminator.model_channels has {width}; use multiples of {network.num_head_channels}"
        if self.cond and search.fitted:
            yield "study.ensemble.fitted is true, which is not for a class-conditional profile; write false"
        if search.time_min[1] >= search.time_max[0]:
            yield f"study.ensemble.time_min reaches {search.time_min[1]} and must stay below time_max; change one"
        begun = {"rules": start.rule, "boosting": start.boosting, "w1": start.w1, "w2": start.w2}
        for key, value in (begun | dict(zip(("time_min", "time_max"), start.window, strict=True))).items():
            allowed = getattr(search, key)
            if not (value in allowed if key in ("rules", "boosting") else allowed[0] <= value <= allowed[1]):
                yield f"study.ensemble.{key} leaves out {value} of variants.{study.start}, where it starts; change one"

    def check_counts(self, train: int, holdout: int, classes: int = 2) -> None:
        """Refuse settings that ask for more than there is: `train` real images for training, and `holdout` others."""
        if self.cond and classes < 2:
            raise ConfigError("cond is true, and the images have one class", "write cond: false, or give classes")
        compared = min(self.count("reference", train), self.guided.images)
        learnt = self.count("discriminator", train)  # from, by discriminators and in fine-tuning
        asked = [("evaluation.neighborhood", self.evaluation.neighborhood, compared - 2)]
        asked += [(f"members.{name}.images", row.images or 0, learnt) for name, row in self.members.items()]
        tuned = self.score.finetuned if self.score.source == "train" else {}
        asked += [(f"score.finetuned.{name}.images", tuning.images, learnt) for name, tuning in tuned.items()]
        asked += [("real.splits", sum(vars(self.real.splits).values()), train)] if self.real.splits else []
        for key, value, most in asked:
            if value > most:
                raise ConfigError(f"{key} is {value}", f"it must be at most {most}: there are too few images for more")
        count = min([learnt, self.fake.images, *(member.images or learnt for member in self.members.values())])
        shares = self.discriminator.split
        if min(shares.train, shares.validation, shares.test) * count < 1 or count < FEWEST or holdout < 3:
            few = f"{count} images for discriminator.split and {holdout} held-out ones are less than {FEWEST} and 3"
            raise ConfigError(few, "give more images, or change the shares, or fake.images")
        if self.fake.images != learnt and any(row.epochs and row.images is None for row in self.members.values()):
            raise ConfigError(f"fake.images is {self.fake.images}", f"epochs need as many as real ones: write {learnt}")

    @property
    def baselines(self) -> dict[str, str | None]:
        """By variant, the row that its differences refer to; None of evaluation.baseline itself."""
        common = self.evaluation.baseline
        return {name: None if name == common else row.baseline or common for name, row in self.variants.items()}

    def count(self, part: str, train: int) -> int:
        """How many of the training images are in a split."""
        return getattr(self.real.splits, part) if self.real.splits else train

    @property
    def trained(self) -> dict[str, Any]:
        """The sections of the networks that are trained from scratch, by word."""
        sections = {word: getattr(self, word) for word in ("score", "extractor", "fid_network")}
        return {word: section for word, section in sections.items() if section.source == "train"}

    @property
    def studies(self) -> Study:
        """Section `study`, for the commands that need it."""
        if self.study is None:
            raise ConfigError(f"profile {self.profile} has study: null", "write one, as in configs/mini.yaml")
        return self.study

    def replicate(self, number: int) -> Self:
        """The settings of one training replicate: new seeds for score network, extractor, fakes and members."""

        def moved(section: Any) -> Any:
            return replace(section, seed=section.seed + number * SEED_STRIDE)

        trained = {word: section for word, section in self.trained.items() if word != "fid_network"}
        networks = {word: replace(section, training=moved(section.training)) for word, section in trained.items()}
        if self.score.source == "train":
            tuned = {name: moved(row) for name, row in self.score.finetuned.items()}
            networks["score"] = replace(networks["score"], finetuned=tuned)
        members = {name: moved(row) for name, row in self.members.items()}
        return replace(self, **networks, fake=moved(self.fake), members=members)


def plain(settings: Any, *without: str) -> Any:
    """Settings as nested dictionaries, lists and values, as JSON has them, without some of the outer keys."""
    values = json.loads(json.dumps(settings, default=vars))
    return {key: value for key, value in values.items() if key not in without} if without else values


def row_of(config: Config, settings: Member | Variant) -> dict[str, Any]:
    """A row of the settings file: what a member or variant does not take from its section."""
    shared = {field.name: field.default for field in fields(settings)}
    shared |= plain(config.discriminator if isinstance(settings, Member) else config.sampler)
    shared["window"] = [config.guided.time_min, config.guided.time_max]
    return {key: value for key, value in plain(settings).items() if value != shared.get(key)}


def described(config: Config, name: str) -> dict[str, Any]:
    """How a variant is sampled and evaluated, with every setting that holds for it."""
    variant, guided, reference = config.variants[name], config.guided, config.evaluation.reference
    return {
        "variant": name,
        "n": guided.images,
        "replicates": config.replicates,
        "seed": guided.seed,
        "seed_start": guided.seed_start,
        **{key: value for key, value in plain(variant, "needs", "published").items() if value != math.inf},  # no JSON
        "nfe": (2 * variant.steps - 1) * (1 if variant.autoguidance is None else 2),  # denoiser evaluations of an image
        "fid_network": config.fid_network.name,
        "reference_statistics": None if reference.startswith("models/") else reference,
    }


READER, UNKNOWN = TypeAdapter(Config), "unexpected_keyword_argument"


def _choices(config: Config) -> Iterator[tuple[str, Any, Collection[Any]]]:
    """Keys whose values must be among others, and those."""
    members, variants, baseline, report = config.members, config.variants, config.evaluation.baseline, config.report
    models, snapshots, common = f"models/{config.profile}", config.score.networks, plain(config.discriminator)
    for word, section in config.trained.items():
        yield f"{word}.path", section.path, [f"data/{config.profile}/real"]  # what DVC watches
    if config.evaluation.reference.startswith("models/"):
        yield "evaluation.reference", config.evaluation.reference, [f"{models}/fid_network", "the path of an .npz"]
    if config.extractor.source == "adm":
        yield "real.image_size", config.real.image_size, (8, 16, 32, 64)  # of released classifiers
    starts = [f"{models}/extractor"]
    for key, member in members.items():
        if member.start.startswith("models/"):
            yield f"members.{key}.start", member.start, [*starts, "a file under data/raw"]
        starts.append(f"{models}/discriminator/{key}")
        yield f"members.{key}.fakes", member.fakes, [None, *config.fake.networks]
        yield from ((f"members.{key}.{word}", plain(member)[word], [common[word]]) for word in COMMON)
    for key, row in variants.items():
        networks = {"network": row.network, "autoguidance": row.autoguidance and row.autoguidance.network}
        yield from ((f"variants.{key}.{word}", name, snapshots) for word, name in networks.items() if name)
        yield from ((f"variants.{key}.members", name, members) for name in row.members)
        needs = "score" if not row.members else f"discriminator/{row.members[0]}"
        yield f"variants.{key}.needs", row.needs, [needs if len(row.members) < 2 else "discriminator"]
    yield from (("fake.networks", name, snapshots) for name in config.fake.networks)
    unguided = [key for key, row in variants.items() if not row.members]
    yield from ((f"variants.{key}.baseline", row.baseline, {None, *unguided} - {key}) for key, row in variants.items())
    yield "evaluation.baseline", baseline, unguided
    yield "report.primary", report.primary[0], [key for key in variants if key not in (baseline, report.primary[1])]
    for key in ("primary", "samples", "log_ratios", "sampling"):
        yield from ((f"report.{key}", name, variants) for name in getattr(report, key))
    if config.study is not None:
        guided = [key for key, row in variants.items() if row.members and not row.autoguidance]
        yield "study.start", config.study.start, [*guided, "study: null"]
        for key, names in config.study.factorial.sets.items():
            sampled = [name for name, member in members.items() if not member.fakes]  # of the network that cells sample
            yield from ((f"study.factorial.sets.{key}", name, sampled) for name in names)


def load_config(path: Path = PARAMS) -> Config:
    """Read and check a settings file, or an overlay together with its base."""
    return check(merged(path))


def merged(path: Path, content: bytes | None = None) -> Sources:
    """The files, or what is to be one, that say the settings; the last holds them all."""
    overlay = parse(read(path) if content is None else content, path)
    if not isinstance(overlay, dict) or "base" not in overlay:
        return [(overlay, path)]
    base, profile = str(overlay["base"]), path.stem
    if overlay.get("profile", profile) != profile:
        raise ConfigError(f"profile in {path} is {overlay['profile']}", f"leave it out: the file's name is {profile}")
    content = read(below := path.parent / f"{base}.yaml")
    for folder in ("data", "models"):
        content = content.replace(f"{folder}/{base}/".encode(), f"{folder}/{profile}/".encode())
    whole = parse(content, below)
    if not isinstance(whole, dict) or "base" in whole:
        raise ConfigError(f"{below}, the base of {path}, does not hold all settings", "choose base: mini")
    _lay_over(whole, {"report": {"describe": {}}} if {"members", "variants"} & overlay.keys() else {})  # of others
    _lay_over(whole, {"profile": profile} | {key: value for key, value in overlay.items() if key != "base"})
    return [(overlay, path), (whole, below)]


def _lay_over(below: Any, overlay: Mapping[str, Any]) -> None:
    """Put the values of an overlay in place: tables and sections with another source as a whole, others by key."""
    for key, value in overlay.items():
        old = below.get(key)
        mappings = isinstance(old, dict) and isinstance(value, Mapping) and key not in TABLES
        if mappings and value.get("source", old.get("source")) == old.get("source"):
            _lay_over(old, value)
        else:
            below[key] = value


def read(path: Path) -> bytes:
    """The contents of a settings file."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist", "correct it, or run `dguide profile mini` in the project's folder")
    return path.read_bytes()


def parse(content: bytes, path: Path) -> Any:
    """The values in YAML 1.2 (as DVC reads it: 1e-5 is a number); mappings know their lines."""
    from ruamel.yaml import YAML

    reader = YAML(pure=True)
    reader.preserve_quotes = True
    try:
        return reader.load(content.decode("utf-8-sig"))
    except Exception as error:  # of well-formed text that holds no value, such as 2001-99-99, nearly any
        mark = getattr(error, "problem_mark", None)
        where, what = f", line {mark.line + 1}," if mark else "", getattr(error, "problem", None) or reason(error)
        what = what.replace('in "<unicode string>", ', "at ")
        raise ConfigError(f"{path}{where} is no YAML: {what}", "correct the syntax there") from error


def check(sources: Sources) -> Config:
    """The settings that files hold; ConfigError names file, line, key, value and what is allowed."""
    whole, path = sources[-1]
    try:
        # Aliases of aliases may stand for billions of values: what is longer than any settings is no JSON.
        values = json.loads("".join(islice(json.JSONEncoder(default=str).iterencode(whole), MOST_PIECES)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not plain settings with few aliases: {reason(error)}", "simplify it") from error
    _complete_rows(values)
    try:
        # Through JSON, so that strict mode takes lists for tuples and still refuses "2" for 2.
        return READER.validate_json(json.dumps(values))
    except ValidationError as error:
        raise _explained(error, sources) from error


def _complete_rows(values: Any) -> None:
    """Give rows of members and variants what they leave out, from the sections that say it for all."""
    with suppress(LookupError, TypeError, AttributeError):  # of what is malformed, which validation tells better
        section, guided, network = values["discriminator"], values["guided"], values["discriminator"]["network"]
        section.setdefault("precision", values["runtime"]["training_precision"])
        of_members = {key: section[key] for key in vars(library.DiscriminatorSettings()) if key in section}
        for row in values["members"].values():
            row |= {**of_members, **row, "network": network | row.get("network", {})}
        of_variants = values["sampler"] | {"window": [guided["time_min"], guided["time_max"]]}
        for row in values["variants"].values():
            unguided = {} if row.get("members") else {"w1": 0.0, "w2": 0.0, "boosting": False}
            row |= {**of_variants, **unguided, **row}


def _explained(error: ValidationError, sources: Sources) -> ConfigError:
    first: Any = min(error.errors(include_url=False), key=lambda each: each["type"] != UNKNOWN)  # a typo, then a lack
    kind, location, context, inner = first["type"], first["loc"], first.get("ctx", {}), list[str]()
    given = "is no address" if "storage" in location else f"is {first['input']!r:.200}"  # it may hold a password
    if isinstance(cause := context.get("error"), ConfigError):  # of a whole section: the problem begins with the key
        key, _, problem = cause.problem.partition(" ")
        inner, remedy = key.split("."), cause.remedy
    elif "tag" in context:  # no kind of this section has such a source
        inner, problem, remedy = ["source"], f"is {context['tag']!r}", f"choose from: {context['expected_tags']}"
    elif kind in ("missing", "union_tag_not_found"):
        problem = f"has no entry {context.get('discriminator', repr(location[-1]))}"
        remedy = "add it; configs/mini.yaml documents each key"
    elif kind == UNKNOWN:
        schema = READER.json_schema()
        names = {key for section in (schema, *schema["$defs"].values()) for key in section.get("properties", ())}
        near = next(iter(get_close_matches(str(location[-1]), sorted(names), n=1, cutoff=0.5)), None)
        guess = f"did you mean {near}?" if near else "remove it"
        problem, remedy = f"{given} but is no setting", "only its own section has it" if near == location[-1] else guess
    else:
        problem, remedy = given, first["msg"].removeprefix("Value error, ").replace("Input", "it")
    keys, spot = max((_spot((*location, *inner), *source) for source in sources), key=lambda spot: len(spot[0]))
    keys += [part for part in inner if part not in keys]  # no file has it: it has its default
    return ConfigError(f"{'.'.join(keys)} in {spot} {problem}" if keys else f"{spot} {problem}", remedy)


def _spot(location: tuple[int | str, ...], data: Any, path: Path) -> tuple[list[str], str]:
    """The keys at a location and their line in a file, or as much of them as the file has."""
    keys, line = list[str](), ""
    for part in location:
        with suppress(LookupError, TypeError, AttributeError):  # names of union branches, which no file has
            section, data = data, data[part]
            keys.append(str(part))
            line = f", line {section.lc.key(part)[0] + 1},"
    return keys, f"{path}{line}"
