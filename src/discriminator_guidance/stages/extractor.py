"""Stage `extractor`: the time-conditional classifier whose frozen features feed the discriminators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.data.files import read_npz
from discriminator_guidance.data.resume import Resumable
from discriminator_guidance.networks.adm import build_extractor
from discriminator_guidance.networks.precision import prepare
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import (
    of_classes,
    of_images,
    released_file,
    require,
    save_network,
    train_network,
)
from discriminator_guidance.training.classifiers import train_classifier
from discriminator_guidance.training.loop import Report, Row, Schedule
from discriminator_guidance.training.pairs import as_tensor

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.tracking import Tracker


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the classifier on VP-noised real images, or convert a released one."""
    settings, runtime, folder = config.extractor, config.runtime, layout.model("extractor")
    real = read_npz(layout.real / "train.npz", ["images", "labels"], "real")
    _, size, _, channels = real["images"].shape
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
    network: nn.Module
    if settings.source == "adm":
        network, arguments = read_adm(released_file(layout, settings.path, "extractor.path"))
        what, takes = f"a classifier in {settings.path}", (arguments["in_channels"], arguments["image_size"])
        require(what, of_images(channels, size), of_images(*takes), "change extractor.path or real.image_size")
        require(what, of_classes(False), of_classes(arguments["condition"]), "change extractor.path")
        save_network(folder, network.state_dict(), arguments)
        result: dict[str, Any] = {"source": settings.path}
    else:
        torch.manual_seed(settings.training.seed)
        classes = int(real["labels"].max()) + 1
        made = build_extractor(size, channels, classes, **settings.network.model_dump()).to(compute.device)
        schedule = Schedule(**settings.training.model_dump())
        noising = settings.t_min, settings.uniform_time_fraction
        images, labels = as_tensor(real["images"], compute.device), torch.from_numpy(real["labels"])

        def train(checkpoints: Resumable, report: Report) -> tuple[nn.Module, list[Row]]:
            rest = schedule, compute, checkpoints, report, noising
            return train_classifier(made, images, labels.to(compute.device), *rest)

        network, result = train_network(config, layout, tracker, "extractor", compute, made.arguments, train)
    tracker.model(f"extractor-{config.profile}", folder / "model.safetensors")
    return {**result, "parameters": sum(parameter.numel() for parameter in network.parameters())}
