"""Stage `extractor`: the time-conditional classifier whose frozen features feed the discriminators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.adm import build_extractor
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.convert import read_adm
from discriminator_guidance.stages.trained import released_file, save_released, save_trained
from discriminator_guidance.training.extractor import train_extractor
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import as_tensor

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.config.sections import AdmExtractor, Runtime, TrainedExtractor


def run(config: Config, context: Context) -> StageResult:
    """Train the classifier on VP-noised real pictures, or convert a released one, and write weights and curve.

    Args:
        config: reads `runtime` and `extractor`.
        context: surroundings.

    Returns:
        The last row of the curve or the name of the released file, and the number of parameters.
    """
    real = read_npz(context.layout.real / "train.npz", ["images", "labels"], "real")
    if config.extractor.source == "adm":
        return _convert(config.extractor, context, real["images"].shape)
    return _train(config.runtime, config.extractor, context, real)


def _train(runtime: Runtime, settings: TrainedExtractor, context: Context, real: dict[str, np.ndarray]) -> StageResult:
    source = context.layout.real / "train.npz"
    compute = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)

    torch.manual_seed(settings.training.seed)
    network = build_extractor(
        image_size=real["images"].shape[1],
        in_channels=real["images"].shape[3],
        classes=int(real["labels"].max()) + 1,
        **settings.network.model_dump(),
    ).to(compute.device)
    schedule = Schedule(**settings.training.model_dump())
    at_once = BatchSize(schedule.batch_size, context.notice)
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
            at_once,
            work,
            advance,
            context.on_metrics,
        )
    return save_trained(context, "extractor", trained, network.arguments, history, work, compute, at_once)


def _convert(settings: AdmExtractor, context: Context, shape: tuple[int, ...]) -> StageResult:
    path = released_file(context, settings.path, "extractor.path")
    state, arguments = read_adm(path)
    takes = (arguments["image_size"], arguments["in_channels"])
    if takes != (shape[1], shape[3]):
        raise ConfigError(
            f"a classifier of pictures of {shape[1]} pixels and {shape[3]} channels in {settings.path}",
            f"{takes[0]} pixels and {takes[1]} channels",
            "change extractor.path or real.image_size",
        )
    if arguments["condition"]:
        raise ConfigError(f"a classifier in {settings.path}", "one that is given classes", "change extractor.path")
    return save_released(context, "extractor", state, arguments, path)
