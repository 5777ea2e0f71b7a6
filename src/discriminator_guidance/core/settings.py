"""The settings of sampler, networks and training, declared once with their defaults and limits; needs no torch."""

import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Number, Real
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, dataclass_transform

from discriminator_guidance.core.errors import ConfigError


@dataclass(frozen=True)
class Limit:
    """The numbers that a setting may have: from `low` to `high`, strictly between `above` and `below`."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and bool(self.low <= value <= self.high and self.above < value < self.below)

    def __str__(self) -> str:
        bounds = {"at least": self.low, "at most": self.high, "above": self.above, "below": self.below}
        return " and ".join(f"{word} {bound:,}" for word, bound in bounds.items() if math.isfinite(bound)) or "finite"


FEWEST = 10  # real images, and fake ones, of which a discriminator learns
KINDS: dict[Any, Any] = {int: (Integral, "a whole number"), float: (Real, "a number"), bool: (bool, "true or false")}
Positive = Annotated[float, Limit(above=0)]
NonNegative = Annotated[float, Limit(low=0)]
Finite = Annotated[float, Limit()]
Fraction = Annotated[float, Limit(above=0, below=1)]
UnitInterval = Annotated[float, Limit(low=0, high=1)]
Share = Annotated[float, Limit(above=0, high=1)]
Dropout = Annotated[float, Limit(low=0, below=1)]
Smoothing = Annotated[float, Limit(low=0, below=0.5)]
Count = Annotated[int, Limit(low=1, high=10**9)]
Seed = Annotated[int, Limit(low=0, below=2**62)]
Steps = Annotated[int, Limit(low=2, high=1000)]
ManyImages = Annotated[int, Limit(low=10)]
Precision = Literal["float32", "tf32", "bfloat16", "auto"]
Checkpoint = Literal["last", "best"] | Count
_hints = cache(typing.get_type_hints)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Settings:
    """A frozen dataclass whose values are within the limits that their types name, and do not contradict each other."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}  # how `dguide` reads it from a file
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        settings: Any = type(self)
        hints = _hints(settings, include_extras=True)
        for name, given in vars(self).items():
            value = _plain(given)
            object.__setattr__(self, name, value)
            if allowed := _allowed(hints[name], value):
                raise ConfigError(f"{name} is {value!r:.200}", f"it must be {allowed}")
        for problem in self._problems():
            raise ConfigError(*problem.rsplit("; ", 1))

    def _problems(self) -> Iterator[str]:
        """Each contradiction as "key is wrong; what to do"."""
        yield from ()

    @classmethod
    def of(cls, settings: "Settings", **changes: Any) -> Self:
        """The settings of this kind among those of `settings`, with changes."""
        values = {field.name: getattr(settings, field.name) for field in fields(cls) if hasattr(settings, field.name)}
        return cls(**values | changes)


def refuse_unknown(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that a function does not take."""
    if unknown := sorted({*given} - {*known}):
        raise TypeError(f"{function} has no argument {', '.join(unknown)}; allowed are its own and {', '.join(known)}")


def _plain(value: Any) -> Any:
    """Numbers of numpy, also in tuples, as Python's, which JSON takes."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def _allowed(kind: Any, value: Any) -> str | None:
    """What a value of this type should be, if it breaks a limit or is none of the choices."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        limits = [str(note) for note in arguments[1:] if isinstance(note, Limit) and value not in note]
        return limits[0] if limits else _allowed(arguments[0], value)
    if origin is Literal:
        return None if value in arguments else f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        allowed = [] if value is None and len(kinds) < len(arguments) else [_allowed(kind, value) for kind in kinds]
        return None if None in allowed or not allowed else ", or ".join(filter(None, allowed))
    if origin is tuple and isinstance(value, tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1:] == (...,) else list(arguments)
        if len(kinds) != len(value):
            return f"{len(kinds)} values"
        return next(filter(None, map(_allowed, kinds, value)), None)
    if origin is dict and isinstance(value, Mapping):
        return next(filter(None, (_allowed(arguments[1], item) for item in value.values())), None)
    if kind in KINDS or is_dataclass(kind):
        wanted, words = KINDS.get(kind, (kind, f"a {getattr(kind, '__name__', kind)}"))
        return None if isinstance(value, wanted) and (kind is bool or not isinstance(value, bool)) else words
    return None


class SamplerSettings(Settings):
    """Heun's sampler in the symbols of Karras et al. 2022 (Table 1: its defaults) and Kim et al. 2023."""

    steps: Steps = 18  # of two denoiser evaluations, the last of one
    sigma_min: Positive = 0.002  # the lowest noise level before 0
    sigma_max: Positive = 80.0  # the noise level of the start
    rho: Annotated[float, Limit(low=0.1)] = 7.0  # the noise levels are evenly spaced in sigma^(1/rho)
    s_churn: NonNegative = 0.0  # amount of noise that the steps add and remove; 0: deterministic
    s_min: NonNegative = 0.0  # the lowest noise level with churn
    s_max: float = math.inf  # and the highest
    s_noise: Positive = 1.0  # standard deviation of the added noise
    eps_scale: Positive = 1.0  # epsilon scaling (Ning et al. 2024); 1 is off
    w1: Finite = 1.0  # weight of the guidance in the Euler step
    w2: Finite = 1.0  # and in Heun's correction
    boosting: bool = False  # stronger steps for samples that look fake, as in the official code

    def _problems(self) -> Iterator[str]:
        if self.sigma_min >= self.sigma_max:
            yield f"sigma_min is {self.sigma_min:g} and must be below sigma_max {self.sigma_max:g}; change one of them"
        if not self.s_max >= 0:
            yield f"s_max is {self.s_max:g} and must be at least 0; raise it"


class ScoreNetworkSettings(Settings):
    """Constructor arguments of `SongUNet`, under their original names; the defaults are EDM's for CIFAR-10 (DDPM++)."""

    model_channels: Count = 128  # the unit of channel_mult
    channel_mult: tuple[Count, ...] = (2, 2, 2)  # channels of each level; images halve from level to level
    num_blocks: Count = 4  # residual blocks in a level
    attn_resolutions: tuple[Count, ...] = (16,)  # image sizes in pixels at which it attends
    dropout: Dropout = 0.13  # probability
    embedding_type: Literal["positional", "fourier"] = "positional"  # of the noise level: DDPM++ or NCSN++
    encoder_type: Literal["standard", "residual"] = "standard"  # DDPM++, or NCSN++ with scaled-down images added
    channel_mult_noise: Literal[1, 2] = 1  # width of the noise embedding: DDPM++ or NCSN++
    resample_filter: tuple[Count, ...] = (1, 1)  # taps: (1, 1) in DDPM++, (1, 3, 3, 1) in NCSN++

    def _problems(self) -> Iterator[str]:
        if self.model_channels % 4:
            yield f"model_channels is {self.model_channels}; use a multiple of 4"
        if self.resample_filter not in ((1, 1), (1, 3, 3, 1)):
            yield f"resample_filter is {list(self.resample_filter)}; write [1, 1] or [1, 3, 3, 1]"


class ExtractorNetworkSettings(Settings):
    """Arguments of `build_extractor`; the defaults are those of the DG authors' 32x32 classifier."""

    model_channels: Count = 128  # the unit of channel_mult
    channel_mult: tuple[Count, ...] = (1, 2, 4)  # channels of each level; images halve from level to level
    num_res_blocks: Count = 4  # in a level
    attention_resolutions: tuple[Count, ...] = (32, 16, 8)  # image sizes in pixels
    num_head_channels: Count = 64  # of an attention head
    dropout: Dropout = 0.0  # probability

    def _problems(self) -> Iterator[str]:
        for factor in self.channel_mult:
            if (width := factor * self.model_channels) % self.num_head_channels:
                yield f"num_head_channels is {self.num_head_channels}; use a divisor of {width}"


class HeadSettings(Settings):
    """Arguments of `build_head`; the defaults are those of the DG authors' discriminator."""

    model_channels: Count = 128  # channels of its one level
    num_res_blocks: Count = 2  # in it
    num_head_channels: Count = 64  # of an attention head
    dropout: Dropout = 0.0  # probability

    def _problems(self) -> Iterator[str]:
        if self.model_channels % self.num_head_channels:
            yield f"num_head_channels is {self.num_head_channels}; use a divisor of {self.model_channels}"


class TrainingSettings(Settings):
    """A training loop counted in iterations."""

    seed: Seed = 0  # of batches, noise and dropout
    iterations: Count
    batch_size: Count = 64  # images
    learning_rate: Positive = 1e-3  # of AdamW
    weight_decay: NonNegative = 0.0  # decoupled (AdamW)
    decay_fraction: UnitInterval = 0.0  # the learning rate falls linearly to 0 over this last share of the iterations
    gradient_clip: Positive = 1.0  # largest gradient norm
    checkpoint_every: Count = 1000  # iterations


class ScoreSettings(Settings):
    """Training of a score network: ln sigma ~ N(p_mean, p_std^2); parameters averaged with `ema_decay`."""

    training: TrainingSettings
    sigma_data: Positive = 0.5  # standard deviation of the images
    p_mean: Finite = -1.2  # of ln sigma
    p_std: Positive = 1.2  # of ln sigma
    ema_decay: Fraction = 0.999  # an iteration


class FineTuningSettings(Settings):
    """Further training of a denoiser on a few other real images; its other settings are those of its training."""

    images: ManyImages  # how many
    iterations: Count
    learning_rate: Positive = 1e-4  # of AdamW
    seed: Seed = 0  # of batches and noise, and of the samples for ddo
    objective: Literal["edm", "ddo"] = "edm"  # ddo: against samples of the denoiser itself (Zheng et al. 2025)
    beta: Positive = 0.02  # of ddo: nats of the log ratio for a unit of the loss, summed over the image


class SplitSettings(Settings):
    """Shares of real + fake images for training, validation and test; members of an ensemble have one split."""

    train: Fraction = 0.8
    validation: Fraction = 0.1  # chooses the weights that are used
    test: Fraction = 0.1
    seed: Seed = 0  # of the order that is split

    def _problems(self) -> Iterator[str]:
        if not math.isclose(total := self.train + self.validation + self.test, 1.0, abs_tol=1e-9):
            yield f"train adds up to {total:g} with validation and test, instead of 1; change one of them"


class DiscriminatorSettings(Settings):
    """How a discriminator is trained and tested; the defaults suit a whole network and a few thousand images."""

    seed: Seed = 0  # of the network, batches, times and noise
    steps: Count = 1000  # with half of each batch real and half fake
    epochs: Annotated[int, Limit(low=0, high=10**9)] | None = None  # passes in place of steps; as many real as fake
    patience: Count | None = 5  # rows of the curve (an epoch, or `row_steps`) without a smaller validation loss
    row_steps: Count = 50  # steps in a row of the curve, where epochs do not say
    optimizer: Literal["adam", "adamw"] = "adamw"  # adam: with weight decay in the gradient, as in the paper's code
    learning_rate: Positive = 1e-3  # of the optimizer
    weight_decay: NonNegative = 1e-2  # decoupled with adamw
    t_min: Fraction = 1e-5  # smallest VP time
    batch_size: Count = 128  # real and fake images together
    importance_sampling: bool | UnitInterval = 0.5  # share of times drawn by importance; the others are uniform
    reshuffle: bool = True  # False: every epoch repeats the batches of the first, as in the reproduction
    flip: bool = False  # random horizontal flips
    label_smoothing: Smoothing = 0.0  # distance of the targets from 0 and 1
    bagging: Share | None = None  # images drawn with replacement, relative to their number; None: each image once
    checkpoint: Checkpoint = "best"  # the row of the curve whose weights are used; best: smallest validation loss
    checkpoint_every: Count = 1  # rows of the curve
    gain: NonNegative = 0.0  # a whole network begins with standard deviation gain / sqrt(fan-in); 0: torch's own
    ema_decay: Fraction | None = 0.99  # of the average that is validated and used; None: the network itself
    decay_fraction: UnitInterval = 0.0  # the learning rate falls linearly to 0 over this last share of all steps
    permute_labels: bool = False  # a null discriminator
    precision: Precision = "float32"  # tf32 stays allowed in this process
    images: ManyImages | None = None  # real and fake ones that are used, of each kind as many; None: all
    split: SplitSettings = SplitSettings()  # shares of the images
    grid_times: Count = 8  # VP times of validation and test
    grid_times_per_image: Count | None = None  # how many of them each image sees; None: few enough for 8,192 pairs

    def _problems(self) -> Iterator[str]:
        rows = -(-self.steps // self.row_steps) if self.epochs is None else self.epochs
        if isinstance(self.checkpoint, int) and 0 < rows < self.checkpoint:
            yield f"checkpoint is {self.checkpoint} of {rows} epochs, or rows of the curve; lower it"
