"""Stage `extractor`: the time-conditional classifier whose frozen features feed the discriminators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.networks.adm import build_extractor
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.trained import save_trained
from discriminator_guidance.training.extractor import train_extractor
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import as_tensor

if TYPE_CHECKING:
    from discriminator_guidance.config import Config


def run(config: Config, context: Context) -> StageResult:
    """Train the classifier on VP-noised real pictures and write weights and training curve.

    Args:
        config: reads `runtime` and `extractor`.
        context: surroundings.

    Returns:
        The last row of the curve, the number of parameters and the precision.
    """
    settings, runtime = config.extractor, config.runtime
    source = context.layout.real / "train.npz"
    real = read_npz(source, ["images", "labels"], "real")
    compute = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)

    arguments = {
        "image_size": real["images"].shape[1],
        "in_channels": real["images"].shape[3],
        "classes": int(real["labels"].max()) + 1,
        **settings.network.model_dump(),
    }
    torch.manual_seed(settings.training.seed)
    network = build_extractor(**arguments).to(compute.device)
    schedule = Schedule(**settings.training.model_dump())
    work = partial_work(context, "extractor", "", [source], settings.model_dump(), compute)
    with context.bar("training the extractor", schedule.iterations, "iterations") as advance:
        trained, history = train_extractor(
            network,
            as_tensor(real["images"], compute.device),
            torch.from_numpy(real["labels"]).to(compute.device),
            schedule,
            settings.t_min,
            settings.uniform_time_fraction,
            compute,
            work,
            advance,
            context.on_metrics,
        )
    return save_trained(context, "extractor", trained, arguments, history, work, compute)
