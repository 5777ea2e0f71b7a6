"""Stage `score`: the EDM denoiser that is to be guided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import one_hot

from discriminator_guidance.artifacts.files import read_npz
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.convert import read_edm
from discriminator_guidance.stages.fitting import WithoutMemory
from discriminator_guidance.stages.trained import released_file, save_released, save_trained
from discriminator_guidance.training.loop import Schedule
from discriminator_guidance.training.pairs import as_tensor
from discriminator_guidance.training.score import train_score

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.config.sections import EdmScore, TrainedScore


def run(config: Config, context: Context) -> StageResult:
    """Train the denoiser, or convert a released one, and write its weights and training curve.

    Args:
        config: reads `runtime`, `cond` and `score`.
        context: surroundings.

    Returns:
        The last row of the curve or the name of the released file, and the number of parameters.
    """
    source = context.layout.real / "train.npz"
    real = read_npz(source, ["images", "labels"], "real")
    if config.score.source == "edm":
        return _convert(config.score, context, real["images"].shape, _classes(real) if config.cond else 0)
    return _train(config, config.score, context, real)


def _train(config: Config, settings: TrainedScore, context: Context, real: dict[str, np.ndarray]) -> StageResult:
    runtime, images = config.runtime, real["images"]
    source = context.layout.real / "train.npz"
    compute = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)
    classes = torch.from_numpy(real["labels"]).to(compute.device) if config.cond else None
    arguments = {
        "img_resolution": images.shape[1],
        "img_channels": images.shape[3],
        "label_dim": _classes(real) if config.cond else 0,
        "sigma_data": settings.sigma_data,
        **settings.network.model_dump(),
    }
    torch.manual_seed(settings.training.seed)
    network = EDMPrecond(**arguments).to(compute.device)
    schedule = Schedule(**settings.training.model_dump())
    at_once = BatchSize(schedule.batch_size, context.notice)
    told = {**settings.model_dump(), "cond": config.cond}
    work = partial_work(context, "score", "", [source], told, compute)
    with context.bar("training the score network", schedule.iterations, "iterations") as advance:
        trained, history = train_score(
            network,
            as_tensor(images, compute.device),
            None if classes is None else one_hot(classes, network.label_dim),
            schedule,
            settings.p_mean,
            settings.p_std,
            settings.sigma_data,
            settings.ema_decay,
            compute,
            at_once,
            work,
            advance,
            context.on_metrics,
        )
    return save_trained(context, "score", trained, arguments, history, work, compute, at_once)


def _convert(settings: EdmScore, context: Context, shape: tuple[int, ...], classes: int) -> StageResult:
    path = released_file(context, settings.path, "score.path")
    state, arguments = read_edm(path)
    takes = (arguments["img_resolution"], arguments["img_channels"])
    if takes != (shape[1], shape[3]):
        raise ConfigError(
            f"a score network for pictures of {shape[1]} pixels and {shape[3]} channels in {settings.path}",
            f"{takes[0]} pixels and {takes[1]} channels",
            "change score.path or real.image_size",
        )
    label_dim = arguments.get("label_dim", 0)
    if label_dim != classes:
        raise ConfigError(
            f"a score network {_kind(classes)} in {settings.path}, as cond and real say",
            f"one {_kind(label_dim)}",
            "change score.path or cond",
        )
    with WithoutMemory():
        buffers = {name for name, _ in EDMPrecond(**arguments).named_buffers()}
    return save_released(context, "score", state, arguments, path, buffers)


def _classes(real: dict[str, np.ndarray]) -> int:
    return int(real["labels"].max()) + 1


def _kind(classes: int) -> str:
    return f"with {classes} classes" if classes else "without classes"
