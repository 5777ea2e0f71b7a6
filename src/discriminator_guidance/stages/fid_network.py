"""Stage `fid_network`: the classifier whose features define the Frechet distance of a small study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.trained import save_trained
from discriminator_guidance.training.fid_network import train_fid_network
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import as_tensor

if TYPE_CHECKING:
    from discriminator_guidance.config import Config


def run(config: Config, context: Context) -> StageResult:
    """Train the classifier on clean real pictures and write weights and training curve.

    Args:
        config: reads `runtime` and `fid_network`.
        context: surroundings.

    Returns:
        The last row of the curve, the number of parameters and the precision.
    """
    settings, runtime = config.fid_network, config.runtime
    source = context.layout.real / "train.npz"
    real = read_npz(source, ["images", "labels"], "real")
    compute = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)

    arguments = {
        "image_size": real["images"].shape[1],
        "in_channels": real["images"].shape[3],
        "channels": settings.channels,
        "features": settings.features,
        "classes": int(real["labels"].max()) + 1,
    }
    torch.manual_seed(settings.training.seed)
    network = FidNetwork(**arguments).to(compute.device)
    schedule = Schedule(**settings.training.model_dump())
    told = {"network": arguments, "training": settings.training.model_dump()}
    work = partial_work(context, "fid_network", "", [source], told, compute)
    with context.bar("training the FID network", schedule.iterations, "iterations") as advance:
        trained, history = train_fid_network(
            network,
            as_tensor(real["images"], compute.device),
            torch.from_numpy(real["labels"]).to(compute.device),
            schedule,
            compute,
            work,
            advance,
            context.on_metrics,
        )
    return save_trained(context, "fid_network", trained, arguments, history, work, compute)
