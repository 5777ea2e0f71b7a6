"""Stage `score`: the EDM denoiser that is to be guided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.trained import save_trained
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import as_tensor
from discriminator_guidance.training.score import train_score

if TYPE_CHECKING:
    from discriminator_guidance.config import Config


def run(config: Config, context: Context) -> StageResult:
    """Train the denoiser and write its averaged weights and training curve.

    Args:
        config: reads `runtime` and `score`.
        context: surroundings.

    Returns:
        The last row of the curve, the number of parameters and the precision.
    """
    settings, runtime = config.score, config.runtime
    source = context.layout.real / "train.npz"
    images = read_npz(source, ["images"], "real")["images"]
    compute = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)

    arguments = {
        "img_resolution": images.shape[1],
        "img_channels": images.shape[3],
        "label_dim": 0,
        "sigma_data": settings.sigma_data,
        **settings.network.model_dump(),
    }
    torch.manual_seed(settings.training.seed)
    network = EDMPrecond(**arguments).to(compute.device)
    schedule = Schedule(**settings.training.model_dump())
    work = partial_work(context, "score", "", [source], settings.model_dump(), compute)
    with context.bar("training the score network", schedule.iterations, "iterations") as advance:
        trained, history = train_score(
            network,
            as_tensor(images, compute.device),
            schedule,
            settings.p_mean,
            settings.p_std,
            settings.sigma_data,
            settings.ema_decay,
            compute,
            work,
            advance,
            context.on_metrics,
        )
    return save_trained(context, "score", trained, arguments, history, work, compute)
