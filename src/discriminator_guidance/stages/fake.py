"""Stage `fake`: unguided samples that the discriminators learn to tell from real pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discriminator_guidance.artifacts.images import write_grid
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.guidance.sampler import SamplerSettings
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.networks import load_denoiser, refuse_other_kind
from discriminator_guidance.stages.sampling import draw_samples, unguided_denoiser, write_samples

if TYPE_CHECKING:
    from discriminator_guidance.config import Config


def run(config: Config, context: Context) -> StageResult:
    """Draw the fake set without guidance.

    Args:
        config: reads `runtime`, `cond`, `sampler` and `fake`.
        context: surroundings.

    Returns:
        The number of pictures.
    """
    settings, runtime = config.fake, config.runtime
    compute = prepare_compute(runtime.device, runtime.sampling_precision, runtime.threads)
    network = load_denoiser(context.layout, compute)
    refuse_other_kind(network.label_dim > 0, config.cond, "a score network", "score")
    sampler = SamplerSettings(**config.sampler.model_dump(), w1=0.0, w2=0.0, boosting=False)
    told = {**settings.model_dump(), **config.sampler.model_dump(), "cond": config.cond}
    weights = [context.layout.model("score") / name for name in WEIGHT_FILES]
    work = partial_work(context, "fake", "", weights, told, compute)
    at_once = BatchSize(settings.batch_size, context.notice)
    with context.bar("drawing fake pictures", settings.images, "images") as advance:
        samples = draw_samples(
            lambda classes: (unguided_denoiser(network, classes, compute), None),
            network.label_dim,
            sampler,
            (network.img_channels, network.img_resolution, network.img_resolution),
            range(settings.seed_start, settings.seed_start + settings.images),
            settings.seed,
            at_once,
            settings.shard_size,
            0,
            compute,
            work,
            advance,
        )
    folder = context.layout.fake
    write_samples(folder / "samples.npz", samples)
    write_grid(folder / "grid.png", samples.images)
    work.remove()
    return StageResult(
        summary={
            "images": len(samples.images),
            "precision": compute.mode,
            "batch_size": at_once.size,
            **compute.record(),
        },
        outputs=[folder / "samples.npz", folder / "grid.png"],
        artifacts=[folder / "grid.png"],
    )
