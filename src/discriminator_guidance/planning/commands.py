"""The stage runs of a profile, with what each asks of networks, metrics and the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from discriminator_guidance.guidance.sampler import SamplerSettings
from discriminator_guidance.planning import work
from discriminator_guidance.planning.blueprints import Blueprints
from discriminator_guidance.planning.metrics import frechet_flops, influence_flops, kid_flops, manifold_flops
from discriminator_guidance.planning.work import Pass, Passes

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

TRAINED = {"score": "score step", "extractor": "extractor step", "fid_network": "fid step"}


@dataclass(frozen=True)
class Command:
    """One `dguide <stage>`.

    Args:
        stage: its word.
        choice: member or variant, "" where there is none.
        images: pictures it makes, trains on (times the epochs) or evaluates.
        passes: through the networks.
        batch: pictures at once.
        metrics: FLOPs of each metric.
        files: picture files it reads.
        disk: bytes it leaves behind, networks left out.
        arrays: bytes of pictures and features it holds in memory.
        grid: feature maps of the extractor that it holds besides.
    """

    stage: str
    choice: str = ""
    images: int = 0
    passes: Passes = field(default_factory=dict)
    batch: int = 1
    metrics: dict[str, float] = field(default_factory=dict)
    files: int = 0
    disk: int = 0
    arrays: int = 0
    grid: int = 0

    @property
    def choices(self) -> dict[str, str]:
        """The option that names member or variant, as on the command line."""
        kind = "member" if self.stage == "discriminator" else "variant"
        return {kind: self.choice} if self.choice else {}

    @property
    def name(self) -> str:
        """As its run is called in MLflow."""
        return f"{self.stage}-{self.choice}".rstrip("-")


def commands(blueprints: Blueprints) -> list[Command]:
    """Every stage run of a profile, in an order in which they can run.

    Args:
        blueprints: the profile and its pictures.

    Returns:
        The runs.
    """
    config, pictures = blueprints.config, blueprints.pictures
    real = (pictures.train + pictures.holdout) * pictures.bytes
    fake = config.fake
    unguided = SamplerSettings(**config.sampler.model_dump(), w1=0.0, w2=0.0, boosting=False)
    return [
        Command(
            "real",
            images=pictures.train + pictures.holdout,
            files=pictures.train + pictures.holdout if config.real.source == "images" else 0,
            disk=real,
            arrays=2 * real,
        ),
        *(_trained(config, stage, pictures.train * pictures.bytes) for stage in TRAINED),
        Command(
            "fake",
            images=fake.images,
            passes=work.sampling(fake.images, unguided, ()),
            batch=min(fake.batch_size, fake.shard_size, fake.images),
            disk=fake.images * pictures.bytes,
            arrays=2 * fake.images * pictures.bytes,
        ),
        *_discriminators(blueprints),
        *_guided(blueprints),
        *_evaluations(blueprints),
        Command("report"),
    ]


def _trained(config: Config, stage: str, arrays: int) -> Command:
    settings = getattr(config, stage)
    if settings.source != "train":
        return Command(stage)
    training = settings.training
    images = training.iterations * training.batch_size
    return Command(stage, "", images, {Pass(TRAINED[stage]): images}, training.batch_size, arrays=arrays)


def _discriminators(blueprints: Blueprints) -> Iterator[Command]:
    config, pictures = blueprints.config, blueprints.pictures
    settings = config.discriminator
    sizes, pairs = work.split_sizes(
        pictures.train,
        config.fake.images,
        settings.split.train,
        settings.split.validation,
        settings.images,
        settings.grid_times_per_image,
    )
    arrays = (pictures.train + config.fake.images) * pictures.bytes
    for name, row in settings.members.items():
        if hasattr(row, "path"):
            passes, images = work.member_taken(name, pairs), sizes.validation + sizes.test
        else:
            epochs = max(1, round(row.epochs * settings.epoch_factor))
            bagging = settings.bagging if row.differs.bagging is None else row.differs.bagging
            passes = work.member_training(name, epochs, pairs, bagging)
            images = passes[Pass("member step", (name,))]
        yield Command(
            "discriminator",
            name,
            images,
            passes,
            settings.batch_size,
            disk=20 * pairs.test,
            arrays=arrays,
            grid=max(pairs.validation, pairs.test),  # one after the other
        )


def _guided(blueprints: Blueprints) -> Iterator[Command]:
    config, pictures = blueprints.config, blueprints.pictures
    guided, steps = config.guided, config.sampler.steps
    images = guided.ranges * guided.images
    kept = (2 * steps + 1) * guided.trajectory_images * 4 * pictures.bytes
    disk = images * pictures.bytes + kept + (4 * steps + 8) * images
    for name, variant in guided.variants.items():
        settings = SamplerSettings(
            **config.sampler.model_dump(), w1=variant.w1, w2=variant.w2, boosting=variant.boosting
        )
        window = variant.window or (guided.time_min, guided.time_max)
        passes = work.sampling(images, settings, variant.members, *window)
        batch = min(guided.batch_size, guided.shard_size, images)
        yield Command("guided", name, images, passes, batch, disk=disk, arrays=2 * disk)


def _evaluations(blueprints: Blueprints) -> Iterator[Command]:
    config, pictures, d = blueprints.config, blueprints.pictures, blueprints.features
    settings, guided = config.evaluation, config.guided
    n, m, holdout = guided.images, pictures.train, pictures.holdout
    images = guided.ranges * n
    # Distances of each range, guided and unguided; kernel distance and manifolds of the first range alone.
    metrics = {
        "frechet": 2 * guided.ranges * frechet_flops(n, m, d),
        "influence": 2 * guided.ranges * influence_flops(n, m, d),
        "kid": 2 * kid_flops(settings.kid_subsets, settings.kid_subset_size, d),
        "manifold": manifold_flops(n, m, d),
    }
    kept, compared = 4 * d, 8 * d  # bytes of a picture's features: as the network gives them, and in double precision
    influence = 16 * images  # and the index
    for name in guided.variants:
        # The features of real and unguided pictures are kept, and computed by the first variant that needs them.
        seen = images + (m + holdout if name == "edm" else 0)
        yield Command(
            "evaluation",
            name,
            images,
            {Pass("fid features"): seen},
            settings.batch_size,
            metrics,
            disk=seen * kept + influence,
            arrays=(2 * images + m + holdout) * kept + 3 * (n + m) * compared + 10 * compared * d,
        )
