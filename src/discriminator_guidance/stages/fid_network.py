"""Stage `fid_network`: the classifier whose features define the Frechet distance of a small study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.evaluation.inception import InceptionFeatures
from discriminator_guidance.networks.fid_network import FidNetwork
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.convert import read_inception
from discriminator_guidance.stages.networks import INCEPTION_ARGUMENTS
from discriminator_guidance.stages.trained import released_file, save_released, save_trained
from discriminator_guidance.training.fid_network import train_fid_network
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import as_tensor

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.config.sections import Runtime, TrainedFidNetwork


def run(config: Config, context: Context) -> StageResult:
    """Train the classifier on clean real pictures, or take Inception's weights, and write weights and curve.

    Args:
        config: reads `runtime` and `fid_network`.
        context: surroundings.

    Returns:
        The last row of the curve or the name of the released file, and the number of parameters.
    """
    if config.fid_network.source == "inception":
        path = released_file(context, config.fid_network.path, "fid_network.path")
        state = read_inception(path, config.fid_network.sha256)
        InceptionFeatures(state)  # refuses what is not its weights
        return save_released(context, "fid_network", state, INCEPTION_ARGUMENTS, path)
    return _train(config.runtime, config.fid_network, context)


def _train(runtime: Runtime, settings: TrainedFidNetwork, context: Context) -> StageResult:
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
    at_once = BatchSize(schedule.batch_size, context.notice)
    told = {"network": arguments, "training": settings.training.model_dump()}
    work = partial_work(context, "fid_network", "", [source], told, compute)
    with context.bar("training the FID network", schedule.iterations, "iterations") as advance:
        trained, history = train_fid_network(
            network,
            as_tensor(real["images"], compute.device),
            torch.from_numpy(real["labels"]).to(compute.device),
            schedule,
            compute,
            at_once,
            work,
            advance,
            context.on_metrics,
        )
    return save_trained(context, "fid_network", trained, arguments, history, work, compute, at_once)
